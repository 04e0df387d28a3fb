// The instructions that the code with vectors is compiled for.
//
// All of that code is in a namespace of its target, since the linker keeps one copy of each function that has
// the same name in several units. What has no vectors is shared by units for different processors, so the
// program runs on machines that have the instructions of all of them. Headers with vectors have a guard in
// place of #pragma once, since targets.hpp may include them for several targets.
//
// COTTENTION_CPU_TARGET is the namespace, COTTENTION_CPU_VECTOR_BYTES the size of the widest vector register
// (16 where there is none, for the compiler to lower), COTTENTION_CPU_F16C whether it has F16C's conversions.
// By default they follow the compiler's flags. COTTENTION_CPU_PORTABLE_TILES, for tests, replaces the
// processor's matrix unit by plain C++ (matrix_unit.hpp), at any width of vectors.
#pragma once

#include <cottention/requirements.hpp>

// With COTTENTION_CPU_DISPATCH, calls choose among targets at run time. Not in .cu files: nvcc's front end
// does not compile functions for several.
#if defined(COTTENTION_CPU_DISPATCH) && defined(__x86_64__) && !defined(__AVX512F__) && !defined(__NVCC__)
#define COTTENTION_CPU_HAS_DISPATCH 1
#define COTTENTION_CPU_NATIVE(isa) isa##_or_wider
#elif defined(COTTENTION_CPU_PORTABLE_TILES)
#define COTTENTION_CPU_HAS_DISPATCH 0
#define COTTENTION_CPU_NATIVE(isa) isa##_portable_tiles
#elif defined(__NVCC__)  // code for no matrix unit
#define COTTENTION_CPU_HAS_DISPATCH 0
#define COTTENTION_CPU_NATIVE(isa) isa##_nvcc
#else
#define COTTENTION_CPU_HAS_DISPATCH 0
#define COTTENTION_CPU_NATIVE(isa) isa
#endif

#if defined(__AVX512F__)
#define COTTENTION_CPU_TARGET COTTENTION_CPU_NATIVE(avx512)
#define COTTENTION_CPU_VECTOR_BYTES 64
#elif defined(__AVX2__) && defined(__FMA__)
#define COTTENTION_CPU_TARGET COTTENTION_CPU_NATIVE(avx2_fma)
#define COTTENTION_CPU_VECTOR_BYTES 32
#elif defined(__AVX__) && defined(__FMA__)
#define COTTENTION_CPU_TARGET COTTENTION_CPU_NATIVE(avx_fma)
#define COTTENTION_CPU_VECTOR_BYTES 32
#elif defined(__AVX__)
#define COTTENTION_CPU_TARGET COTTENTION_CPU_NATIVE(avx)
#define COTTENTION_CPU_VECTOR_BYTES 32
#elif defined(__SSE2__)
#define COTTENTION_CPU_TARGET COTTENTION_CPU_NATIVE(sse2)
#define COTTENTION_CPU_VECTOR_BYTES 16
#elif defined(__aarch64__)
#define COTTENTION_CPU_TARGET COTTENTION_CPU_NATIVE(neon)
#define COTTENTION_CPU_VECTOR_BYTES 16
#else
#define COTTENTION_CPU_TARGET COTTENTION_CPU_NATIVE(other)
#define COTTENTION_CPU_VECTOR_BYTES 16
#endif

#if defined(__F16C__)
#define COTTENTION_CPU_F16C 1
#else
#define COTTENTION_CPU_F16C 0
#endif

// Code with vectors of 64 bytes for x86-64 on Linux asks the processor for AMX. nvcc's front end knows no
// vectors of 16-bit elements.
#if defined(__x86_64__) && defined(__linux__) && !defined(__NVCC__)
#define COTTENTION_CPU_HAS_AMX 1
#else
#define COTTENTION_CPU_HAS_AMX 0
#endif

// Whether code of the target has walks on a matrix unit.
#if defined(COTTENTION_CPU_PORTABLE_TILES)
#define COTTENTION_CPU_TILES 1
#else
#define COTTENTION_CPU_TILES (COTTENTION_CPU_HAS_AMX && COTTENTION_CPU_VECTOR_BYTES == 64)
#endif

namespace cottention::cpu {
namespace COTTENTION_CPU_TARGET {}
// Not an inline namespace: argument-dependent lookup of another target's code would find what is in it.
using namespace COTTENTION_CPU_TARGET;
}  // namespace cottention::cpu
