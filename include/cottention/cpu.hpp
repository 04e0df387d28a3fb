// Everything for the CPU: forward, backward and step, and the choice of a Problem at run time.
#pragma once

#include <cottention/requirements.hpp>

#include <cottention/host_only.hpp>

#if defined(__NVCC__)  // does not know GCC's pragma unroll, which its host compiler does
#pragma nv_diagnostic push
#pragma nv_diag_suppress 1675
#endif

#include <cottention/cpu/backward.hpp>
#include <cottention/cpu/forward.hpp>
#include <cottention/cpu/step.hpp>
#include <cottention/dispatch.hpp>

#if defined(__NVCC__)
#pragma nv_diagnostic pop
#endif
