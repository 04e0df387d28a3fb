// The weight of a position: w(n) = max(n, 1)^-sigmoid(m), n counting unmasked keys, m the head's scale_logit.
#pragma once

#include <cstdint>

#include <cottention/device/math.cuh>

namespace cottention::tile {

/// sigmoid(m). In double, like what is made of it: a relative error of exp(-s ln n) is an absolute one of
/// s ln n, which 24 bits leave too large for fp32's accuracy at long sequences.
__device__ __forceinline__ double sigmoid(float m) {
  return device::quotient(1.0, 1.0 + device::exponential(-static_cast<double>(m)));
}

/// w(count) for one position. Takes about a hundred fp64 instructions: meant for one lane a chunk or token.
__device__ __forceinline__ double weight(std::int64_t count, double exponent) {
  if (count <= 1) return 1.0;
  return device::exponential(-exponent * device::logarithm(static_cast<double>(count)));
}

/// w(reference + further) / w(reference) for reference >= 1 and -1 <= further < 2^24. Near 1 where a chunk is
/// far from the start of its sequence, so that fp32 holds it to one rounding.
template <class A>
__device__ __forceinline__ A relative_weight(std::int64_t reference, int further, double exponent) {
  if (reference + further < 1) return A{1};  // counts 0 and 1 weigh the same
  const A grown = device::quotient(static_cast<A>(further), static_cast<A>(reference));
  return device::exponential(-static_cast<A>(exponent) * device::log1p_of(grown));
}

}  // namespace cottention::tile
