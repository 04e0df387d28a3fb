// The first include of public headers that compile on the host alone, behind requirements.hpp.
#pragma once

#if defined(__CUDACC_RTC__)
#error \
    "cottention: NVRTC compiles kernels, and this header is for the host. Remedy: include what is below kernel/ in sources for \
NVRTC, and this header where g++, clang++ or nvcc compiles the program that launches them."
#endif
