// Everything for CUDA.
#pragma once

#include <cottention/requirements.hpp>

#include <cottention/host_only.hpp>

#include <cottention/backward.cuh>
#include <cottention/forward.cuh>
#include <cottention/host/dispatch.hpp>
#include <cottention/step.cuh>
