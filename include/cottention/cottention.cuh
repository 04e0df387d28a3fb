// Everything for CUDA.
#pragma once

#include <cottention/backward.cuh>
#include <cottention/dispatch.hpp>
#include <cottention/forward.cuh>
#include <cottention/step.cuh>
