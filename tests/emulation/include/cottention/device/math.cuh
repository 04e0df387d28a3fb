// Arithmetic whose rounding no compiler flag changes. Sources that include this are compiled with
// -ffp-contract=off.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include <cuda_runtime.h>

namespace cottention::device {

inline float fma(float a, float b, float c) { return std::fma(a, b, c); }
inline double fma(double a, double b, double c) { return std::fma(a, b, c); }

inline float mul_rn(float a, float b) { return a * b; }
inline double mul_rn(double a, double b) { return a * b; }

inline float add_rn(float a, float b) { return a + b; }
inline double add_rn(double a, double b) { return a + b; }

inline float sqrt_rn(float x) { return std::sqrt(x); }
inline double sqrt_rn(double x) { return std::sqrt(x); }

inline float rsqrt(float x) { return static_cast<float>(1 / std::sqrt(static_cast<double>(x))); }

inline float div_rn(float a, float b) { return a / b; }
inline double div_rn(double a, double b) { return a / b; }

inline float exponential(float x) { return std::exp(x); }
inline double exponential(double x) { return std::exp(x); }
inline float log1p_of(float x) { return std::log1p(x); }
inline double log1p_of(double x) { return std::log1p(x); }
inline double logarithm(double x) { return std::log(x); }

inline float approximate_exp2(float x) { return std::exp2(x); }
inline float approximate_log2(float x) { return std::log2(x); }

inline bool is_finite(float x) { return (std::bit_cast<std::uint32_t>(x) & 0x7fffffffu) < 0x7f800000u; }
inline bool is_finite(double x) {
  return (std::bit_cast<std::uint64_t>(x) & 0x7fffffffffffffffull) < 0x7ff0000000000000ull;
}

inline float magnitude(float x) { return std::fabs(x); }
inline double magnitude(double x) { return std::fabs(x); }

inline float times_power_of_two(float x, int exponent) { return std::ldexp(x, exponent); }
inline double times_power_of_two(double x, int exponent) { return std::ldexp(x, exponent); }

inline int exponent_of(float x) { return std::ilogb(x); }
inline int exponent_of(double x) { return std::ilogb(x); }

inline int popc(std::uint32_t bits) { return std::popcount(bits); }

}  // namespace cottention::device
