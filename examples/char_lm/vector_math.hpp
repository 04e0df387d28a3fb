// Arithmetic for loops that the compiler is to vectorise: sums that it may reorder, and an exp without a
// call.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace char_lm {

/// e^x for x <= 88, within 2e-7 of its value; 0 below -87.
inline float exponential(float x) {
  const float clamped = std::max(x, -87.0f);  // 2^-126, the smallest normal float, is e^-87.3
  // Adding 1.5 2^23 leaves the nearest integer in the low bits of the sum.
  const float shifted = clamped * 1.44269504f + 12582912.0f;  // log2 e
  const float n = shifted - 12582912.0f;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts; |r| <= 0.347
  // Taylor's series; the first term left out is below 0.347^8 / 8! = 5e-9.
  float series = 1.0f / 5040;
  series = series * r + 1.0f / 720;
  series = series * r + 1.0f / 120;
  series = series * r + 1.0f / 24;
  series = series * r + 1.0f / 6;
  series = series * r + 0.5f;
  series = series * r + 1.0f;
  series = series * r + 1.0f;
  const std::int32_t exponent = std::bit_cast<std::int32_t>(shifted)
                                << 23;  // n 2^23; the rest is shifted out
  return x < -87.0f ? 0.0f : std::bit_cast<float>(std::bit_cast<std::int32_t>(series) + exponent);
}

inline double exponential(double x) { return std::exp(x); }

template <class Real>
Real maximum(std::int64_t count, const Real* x) {
  constexpr std::int64_t lanes = 16;  // largest of every 16th
  Real largest[lanes];
  std::fill_n(largest, lanes, x[0]);
  const std::int64_t whole = count / lanes * lanes;
  for (std::int64_t i = 0; i < whole; i += lanes)
    for (std::int64_t l = 0; l < lanes; ++l) largest[l] = x[i + l] > largest[l] ? x[i + l] : largest[l];
  for (std::int64_t i = whole; i < count; ++i) largest[0] = std::max(largest[0], x[i]);
  return *std::max_element(largest, largest + lanes);
}

template <class Real>
Real sum(std::int64_t count, const Real* x) {
  Real result = 0;
#pragma omp simd reduction(+ : result)
  for (std::int64_t i = 0; i < count; ++i) result += x[i];
  return result;
}

template <class Real>
Real dot(std::int64_t count, const Real* a, const Real* b) {
  Real result = 0;
#pragma omp simd reduction(+ : result)
  for (std::int64_t i = 0; i < count; ++i) result += a[i] * b[i];
  return result;
}

}  // namespace char_lm
