// Everything for the CPU: forward, backward and step, and the choice of a Problem at run time.
#pragma once

#include <cottention/cpu/backward.hpp>
#include <cottention/cpu/forward.hpp>
#include <cottention/cpu/step.hpp>
#include <cottention/dispatch.hpp>
