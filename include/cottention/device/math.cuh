// Arithmetic whose rounding no compiler flag changes, fast-math included.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

namespace cottention::device {

/// a b + c, rounded once.
__device__ __forceinline__ float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ __forceinline__ double fma(double a, double b, double c) { return __fma_rn(a, b, c); }

__device__ __forceinline__ float mul_rn(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double mul_rn(double a, double b) { return __dmul_rn(a, b); }

__device__ __forceinline__ float add_rn(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ double add_rn(double a, double b) { return __dadd_rn(a, b); }

__device__ __forceinline__ float sqrt_rn(float x) { return __fsqrt_rn(x); }
__device__ __forceinline__ double sqrt_rn(double x) { return __dsqrt_rn(x); }

/// 1 / sqrt(x) for x in [2^-100, 2^100], to 2 units in the last place: the approximation of PTX ISA,
/// rsqrt.approx.ftz.f32, which is within 2^-22.4, and a step of Newton's.
__device__ __forceinline__ float rsqrt(float x) {
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  const float remainder = __fmaf_rn(__fmul_rn(-0.5f * x, y), y, 0.5f);
  return __fmaf_rn(y, remainder, y);
}

__device__ __forceinline__ float div_rn(float a, float b) { return __fdiv_rn(a, b); }
__device__ __forceinline__ double div_rn(double a, double b) { return __ddiv_rn(a, b); }

/// exp, log1p and log, within 3 units in the last place. exp of fp32 for |x| <= 80: expf of the CUDA math
/// library follows fast-math, and is then off by a unit more for each unit of x. PTX ISA: ex2.approx.ftz.f32,
/// of x log2(e) rounded, and a correction by what that has rounded off.
__device__ __forceinline__ float exponential(float x) {
  constexpr float log2_e = 0x1.715476p+0f, rest_of_log2_e = 0x1.4ae0cp-26f, ln_2 = 0x1.62e43p-1f;
  const float exponent = __fmul_rn(x, log2_e);
  const float rest = __fmaf_rn(x, rest_of_log2_e, __fmaf_rn(x, log2_e, -exponent));
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(exponent));
  return __fmaf_rn(y, __fmul_rn(rest, ln_2), y);
}
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float log1p_of(float x) { return log1pf(x); }
__device__ __forceinline__ double log1p_of(double x) { return log1p(x); }
__device__ __forceinline__ double logarithm(double x) { return log(x); }

/// 2^x and log2(x), to about 2^-22 of the result and, near x = 1, of 1. PTX ISA: ex2.approx.ftz.f32,
/// lg2.approx.ftz.f32.
__device__ __forceinline__ float approximate_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float approximate_log2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// From the bits, so that fast-math cannot assume the answer.
__device__ __forceinline__ bool is_finite(float x) {
  return (__float_as_uint(x) & 0x7fffffffu) < 0x7f800000u;
}
__device__ __forceinline__ bool is_finite(double x) {
  return (static_cast<std::uint64_t>(__double_as_longlong(x)) & 0x7fffffffffffffffull) <
         0x7ff0000000000000ull;
}

__device__ __forceinline__ float magnitude(float x) { return fabsf(x); }
__device__ __forceinline__ double magnitude(double x) { return fabs(x); }

/// x 2^exponent, exact unless it leaves the range.
__device__ __forceinline__ float times_power_of_two(float x, int exponent) { return ldexpf(x, exponent); }
__device__ __forceinline__ double times_power_of_two(double x, int exponent) { return ldexp(x, exponent); }

/// The e of x = m 2^e with 1 <= |m| < 2, for finite nonzero x.
__device__ __forceinline__ int exponent_of(float x) { return ilogbf(x); }
__device__ __forceinline__ int exponent_of(double x) { return ilogb(x); }

__device__ __forceinline__ int popc(std::uint32_t bits) { return __popc(bits); }

}  // namespace cottention::device
