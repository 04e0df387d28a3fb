// Everything for the CPU: forward, backward and step.
#pragma once

#include <cottention/requirements.hpp>

#include <cottention/host_only.hpp>

#include <cottention/cpu/backward.hpp>
#include <cottention/cpu/forward.hpp>
#include <cottention/cpu/step.hpp>
