// The weight of a position: w(n) = max(n, 1)^-sigmoid(m), n counting unmasked keys, m the head's scale_logit.
#pragma once

#include <cstdint>
#include <type_traits>

#include <cottention/arguments.hpp>
#include <cottention/device/math.cuh>
#include <cottention/device/memory.cuh>

namespace cottention::tile {

/// Whether the call has a scale_logit.
template <class A>
__device__ __forceinline__ bool given(const ScaleLogit<A>& m) {
  return m.data != nullptr || m.narrow != nullptr;
}

/// m of a head.
template <class A>
__device__ __forceinline__ A load_scale_logit(const ScaleLogit<A>& m, std::int64_t head) {
  if constexpr (!std::is_same_v<A, float>)
    if (m.narrow != nullptr) return static_cast<A>(device::load_global(m.narrow + head));
  return device::load_global(m.data + head);
}

/// sigmoid(m). Weights are computed in fp64: the relative error of exp(-s ln n) is the absolute error of s ln
/// n, which with the 24 bits of fp32 is too large for fp32's accuracy in long sequences.
__device__ __forceinline__ double sigmoid(double m) {
  return device::div_rn(1.0, 1.0 + device::exponential(-m));
}

/// The derivative of sigmoid, as sigmoid(m) sigmoid(-m): 1 - sigmoid(m) would cancel for large m.
__device__ __forceinline__ double sigmoid_slope(double m) { return sigmoid(m) * sigmoid(-m); }

/// ln(max(count, 1)). About a hundred fp64 instructions: meant for one lane of a chunk or token.
__device__ __forceinline__ double log_count(std::int64_t count) {
  return count <= 1 ? 0.0 : device::logarithm(static_cast<double>(count));
}

/// w(count) from log = log_count(count) and exponent = sigmoid(m). About a hundred fp64 instructions too.
__device__ __forceinline__ double weight_of(double log, double exponent) {
  return log == 0.0 ? 1.0 : device::exponential(-exponent * log);
}
__device__ __forceinline__ double weight(std::int64_t count, double exponent) {
  return weight_of(log_count(count), exponent);
}

/// ln(max(reference + further, 1)) - ln(reference) for reference >= 1 and -1 <= further < 2^24.
template <class A>
__device__ __forceinline__ A relative_log(std::int64_t reference, int further) {
  if (reference + further < 1) return A{0};  // counts 0 and 1 weigh the same
  return device::log1p_of(device::div_rn(static_cast<A>(further), static_cast<A>(reference)));
}

/// w(reference + further) / w(reference) for reference >= 1 and -1 <= further < 2^24. The quotient is near 1
/// where a chunk is far from the start of its sequence, so that fp32 has it to one rounding.
template <class A>
__device__ __forceinline__ A relative_weight(std::int64_t reference, int further, double exponent) {
  return device::exponential(-static_cast<A>(exponent) * relative_log<A>(reference, further));
}

// ---- relative_log() and relative_weight() for 16-bit elements, in a dozen instructions: to about 2^-21, or
// 2^-20 at the start of a sequence, where the weights of a chunk differ most

/// w(n) and 1 / n for n >= 1, from log2(n) to the precision of fp32: both are then good to 2^-19 for n <
/// 2^32.
__device__ __forceinline__ float rough_weight_of(float log2, float exponent) {
  return device::ex2_approx(-exponent * log2);
}
__device__ __forceinline__ float over_count(float log2) { return device::ex2_approx(-log2); }

inline constexpr float ln_2 = 0.693147181f;
/// `over_reference`: 1 / reference, or reference, which takes a division more.
__device__ __forceinline__ float rough_relative_log2(float over_reference, int further) {
  const float ratio = static_cast<float>(further) * over_reference;
  return ratio <= -1.0f ? 0.0f : device::lg2_approx(1.0f + ratio);
}
__device__ __forceinline__ float rough_relative_log2(std::int64_t reference, int further) {
  if (reference + further < 1) return 0.0f;
  const float ratio = device::div_rn(static_cast<float>(further), static_cast<float>(reference));
  return device::lg2_approx(1.0f + ratio);
}
template <class Reference>
__device__ __forceinline__ float rough_relative_log(Reference reference, int further) {
  return ln_2 * rough_relative_log2(reference, further);
}
template <class Reference>
__device__ __forceinline__ float rough_relative_weight(Reference reference, int further, double exponent) {
  return device::ex2_approx(-static_cast<float>(exponent) * rough_relative_log2(reference, further));
}

}  // namespace cottention::tile
