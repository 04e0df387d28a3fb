// What the library asks of the compiler and its flags. Every public header includes it first, so that a
// compiler which cannot compile the rest says why, once: the missing file behind each message makes it stop
// there.
#pragma once

#if !defined(__CUDACC_RTC__) && defined(__CUDACC_VER_MAJOR__) && \
    __CUDACC_VER_MAJOR__ * 100 + __CUDACC_VER_MINOR__ < 1300
#error \
    "cottention: needs nvcc 13.0 or newer, and this one is older. Remedy: CUDA Toolkit 13.0 or newer; the CPU backend needs none."
#include <stopped_by_the_error_above>
#endif

#if !defined(__CUDACC_RTC__)
#if defined(__clang__)
#if __clang_major__ < 14
#error \
    "cottention: needs Clang 14 or newer, and this one is older. Remedy: a newer Clang, or GCC 12 or newer."
#include <stopped_by_the_error_above>
#endif
#elif !defined(__GNUC__)
#error \
    "cottention: needs the vector extensions and atomics of GCC 12 or Clang 14, or newer, and this is another compiler. \
Remedy: one of these two; on Windows, clang++."
#include <stopped_by_the_error_above>
#elif __GNUC__ < 12
#error \
    "cottention: needs GCC 12 or newer, and this one is older. Remedy: a newer GCC, or Clang 14 or newer; with nvcc, \
-ccbin names it."
#include <stopped_by_the_error_above>
#endif
#endif

#if __cplusplus < 202002L
#error \
    "cottention: needs C++20, and this source is compiled as an older C++. Remedy: -std=c++20, or CMake's target \
cottention::cottention; for .cu files and CMake before 3.25.2, CUDA_STANDARD left unset too, since it overrides the target's."
#include <stopped_by_the_error_above>
#endif

// Clang has no macro for the parts of -ffast-math but the first, so its pragma float_control undoes the
// others where it matters.
#if (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || defined(__ASSOCIATIVE_MATH__)
#error \
    "cottention: -ffast-math, -Ofast, -ffinite-math-only, -fassociative-math and -funsafe-math-optimizations make results \
wrong, since they assume that there is no NaN and no rounding. Remedy: leave them out of sources that include cottention, or \
add -fno-fast-math behind them."
#include <stopped_by_the_error_above>
#endif
