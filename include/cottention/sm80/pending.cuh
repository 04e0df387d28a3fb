// Accurate long sums of products of fp32 elements.
//
// Tensor cores truncate every sum instead of rounding it, which makes long sums too small by up to 2^-23 of
// them for each product. So the products of split fp32 operands go to accumulators other than d: high times
// low and low times high (cross), whose truncation would be as large as that of high times high, to one pair,
// and high times high in chains of a few to another, which are added to d with rounding. For 16-bit elements
// the rounding of the elements is far larger than this error, and fp64's sums are rounded correctly: both
// accumulate in d directly.
#pragma once

#include <concepts>

#include <cottention/sm80/mma.cuh>
#include <cottention/sm80/split.cuh>

namespace cottention::sm80 {

/// Products that have not been added to their accumulator: none but for fp32.
template <Element T>
struct Pending {};
template <>
struct Pending<float> {
  Accumulator<float> high[2], cross[2];  // (16, 16) each
};
/// The largest number of fragments of terms in a chain. docs/tuning.md has the errors that this leaves.
inline constexpr int chain_blocks = 4;
/// The number of fragments in a chain, where `total` fragments are to make chains of equal length; 1 for
/// types that accumulate directly.
template <Element T>
__host__ __device__ constexpr int chain_of(int total) {
  if (!std::same_as<T, float>) return 1;
  return total % chain_blocks == 0 ? chain_blocks : total % 2 == 0 ? 2 : 1;
}

template <Element T>
__device__ __forceinline__ void set_to_zero([[maybe_unused]] Pending<T>& pending) {
  if constexpr (std::same_as<T, float>)
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      set_to_zero(pending.high[n]);
      set_to_zero(pending.cross[n]);
    }
}

/// d += a b^T, (16, mma_k<T>) x (16, mma_k<T>)^T -> (16, 16); for fp32 d has the products after fold() and
/// finish() alone. Scope: warp; barriers inside: 0.
template <Element T, class Left, class Right>
__device__ __forceinline__ void multiply(Accumulator<Accumulate<T>> (&d)[2], Pending<T>&, const Left& a,
                                         const Right& b) {
  multiply<T>(d, a, b);
}
/// multiply() of fp32, into `pending`. low times low is below the last bit and left out.
template <Element T>
__device__ __forceinline__ void multiply(Accumulator<float> (&)[2], Pending<float>& pending,
                                         const SplitFragment<float, Operand::a>& a,
                                         const SplitFragment<float, Operand::b>& b) {
  detail::multiply<float>(pending.cross, a.low, b.high);
  detail::multiply<float>(pending.cross, a.high, b.low);
  detail::multiply<float>(pending.high, a.high, b.high);
}

/// Whether fold() sets d to the chain or adds the chain to d.
enum class Chain { first, further };
/// Ends a chain of products.
template <Element T>
__device__ __forceinline__ void fold([[maybe_unused]] Accumulator<Accumulate<T>> (&d)[2],
                                     [[maybe_unused]] Pending<T>& pending, [[maybe_unused]] Chain chain) {
  if constexpr (std::same_as<T, float>)
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      float &sum = d[e / 4].values[e % 4], &high = pending.high[e / 4].values[e % 4];
      sum = chain == Chain::first ? high : sum + high;
      high = 0;
    }
}
/// Adds the cross products to d, after the last fold().
template <Element T>
__device__ __forceinline__ void finish([[maybe_unused]] Accumulator<Accumulate<T>> (&d)[2],
                                       [[maybe_unused]] const Pending<T>& pending) {
  if constexpr (std::same_as<T, float>)
#pragma unroll
    for (int e = 0; e < 8; ++e) d[e / 4].values[e % 4] += pending.cross[e / 4].values[e % 4];
}
/// fold() and finish() where they are due, called after each of the `total` fragments of terms of d, `done`
/// of which have been multiplied.
template <Element T>
__device__ __forceinline__ void settle(Accumulator<Accumulate<T>> (&d)[2], Pending<T>& pending, int done,
                                       int total) {
  if (done % chain_blocks == 0 || done == total)
    fold<T>(d, pending, done <= chain_blocks ? Chain::first : Chain::further);
  if (done == total) finish<T>(d, pending);
}

}  // namespace cottention::sm80
