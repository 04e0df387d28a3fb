// Products of fragments, and a check of fragments for numbers that are not finite.
#pragma once

#include <concepts>
#include <cstdint>

#include <cottention/device/convert.cuh>
#include <cottention/device/math.cuh>
#include <cottention/device/mma.cuh>
#include <cottention/sm80/fragment.cuh>

namespace cottention::sm80 {

namespace detail {

/// d += a b^T, (16, mma_k<T>) x (16, mma_k<T>)^T -> (16, 16), with one instruction for each 8 columns of d.
/// Scope: warp; barriers inside: 0.
template <Element T>
__device__ __forceinline__ void multiply(Accumulator<float> (&d)[2], const std::uint32_t (&a)[4],
                                         const std::uint32_t (&b)[4]) {
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const std::uint32_t right[2] = {b[2 * n], b[2 * n + 1]};
    if constexpr (std::same_as<T, float>)
      device::mma_m16n8k8_tf32(d[n].values, a, right);
    else
      device::mma_m16n8k16<T>(d[n].values, a, right);
  }
}

}  // namespace detail

/// d += a b^T, (16, mma_k<T>) x (16, mma_k<T>)^T -> (16, 16); of a split operand the low part first, so that
/// small products are added to small sums. Scope: warp; barriers inside: 0.
template <Element T>
__device__ __forceinline__ void multiply(Accumulator<Accumulate<T>> (&d)[2], const Fragment<T, Operand::a>& a,
                                         const Fragment<T, Operand::b>& b) {
  if constexpr (sizeof(T) == 2) {
    detail::multiply<T>(d, a.r, b.r);
  } else {
    static_assert(std::same_as<T, double>, "fp32 is split");
#pragma unroll
    for (int e = 0; e < 8; ++e) {  // halves of the columns, of the rows and of the terms
      const int n = e / 4, m = e / 2 % 2, k = e % 2;
      double part[2] = {d[n].values[2 * m], d[n].values[2 * m + 1]};
      device::mma_m8n8k4_f64(part, a.r[register_of(Operand::a, m, k)], b.r[register_of(Operand::b, n, k)]);
      d[n].values[2 * m] = part[0];
      d[n].values[2 * m + 1] = part[1];
    }
  }
}
template <Element T>
__device__ __forceinline__ void multiply(Accumulator<float> (&d)[2], const Fragment<T, Operand::a>& a,
                                         const SplitFragment<T, Operand::b>& b) {
  detail::multiply<T>(d, a.r, b.low);
  detail::multiply<T>(d, a.r, b.high);
}
template <Element T>
__device__ __forceinline__ void multiply(Accumulator<float> (&d)[2], const SplitFragment<T, Operand::a>& a,
                                         const Fragment<T, Operand::b>& b) {
  detail::multiply<T>(d, a.low, b.r);
  detail::multiply<T>(d, a.high, b.r);
}

/// Whether all elements of some fragments are finite: the sum of 0 times each element is NaN if one is not.
template <Element T>
class FiniteCheck {
 public:
  template <Operand side>
  __device__ __forceinline__ void add(const Fragment<T, side>& block) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if constexpr (sizeof(T) == 2)
        sum_ = device::fma_pair<T>(block.r[e], 0u, sum_);
      else
        sum_ = device::fma(block.r[e], T{0}, sum_);
    }
  }
  /// Whether all elements of this lane were finite.
  __device__ __forceinline__ bool all_finite() const {
    if constexpr (sizeof(T) == 2)
      return sum_ == 0;
    else
      return device::is_finite(sum_);
  }

 private:
  typename Fragment<T, Operand::a>::Register sum_{};
};

}  // namespace cottention::sm80
