// Everything for CUDA.
#pragma once

#include <cottention/requirements.hpp>

#include <cottention/host_only.hpp>

#include <cottention/backward.cuh>
#include <cottention/dispatch.hpp>
#include <cottention/forward.cuh>
#include <cottention/step.cuh>
