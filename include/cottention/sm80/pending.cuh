// Long sums of products in fp32.
//
// Tensor cores cut every sum off instead of rounding it, which makes long sums smaller than they are, by up
// to 2^-23 a product. So fp32 has its products apart from what they are added to: the cross ones, which one
// product would cut off as much as a high one, in sums of their own, and the high ones in chains of a few
// that are added rounded. 16-bit elements are rounded themselves, far more than that, and fp64 is rounded as
// it should be: those are added at once.
#pragma once

#include <concepts>

#include <cottention/sm80/fragment.cuh>

namespace cottention::sm80 {

/// Products that are not yet in their sums.
template <Element T>
struct Pending {};
template <>
struct Pending<float> {
  Accumulator<float> high[2], cross[2];
};
/// So many blocks of terms make a chain, at most.
inline constexpr int chain_blocks = 4;
/// How many, where all chains of `all` blocks are to be equal; 1 where there are none.
template <Element T>
__host__ __device__ constexpr int chain_of(int all) {
  if (!std::same_as<T, float>) return 1;
  return all % chain_blocks == 0 ? chain_blocks : all % 2 == 0 ? 2 : 1;
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

/// d += a b^T, of fp32 once fold() and finish() have been called.
template <Element T, class Left, class Right>
__device__ __forceinline__ void multiply(Accumulator<Accumulate<T>> (&d)[2], Pending<T>&, const Left& a,
                                         const Right& b) {
  multiply<T>(d, a, b);
}
/// low times low is below the last bit.
template <Element T>
__device__ __forceinline__ void multiply(Accumulator<float> (&)[2], Pending<float>& pending,
                                         const SplitFragment<float, Operand::a>& a,
                                         const SplitFragment<float, Operand::b>& b) {
  detail::multiply<float>(pending.cross, a.low, b.high);
  detail::multiply<float>(pending.cross, a.high, b.low);
  detail::multiply<float>(pending.high, a.high, b.high);
}

/// Adds a chain to its sums, or makes it them.
enum class Chain { first, further };
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
/// After the last chain.
template <Element T>
__device__ __forceinline__ void finish([[maybe_unused]] Accumulator<Accumulate<T>> (&d)[2],
                                       [[maybe_unused]] const Pending<T>& pending) {
  if constexpr (std::same_as<T, float>)
#pragma unroll
    for (int e = 0; e < 8; ++e) d[e / 4].values[e % 4] += pending.cross[e / 4].values[e % 4];
}
/// Both where they are due, after each of `all` blocks of terms that make up d.
template <Element T>
__device__ __forceinline__ void settle(Accumulator<Accumulate<T>> (&d)[2], Pending<T>& pending, int done,
                                       int all) {
  if (done % chain_blocks == 0 || done == all)
    fold<T>(d, pending, done <= chain_blocks ? Chain::first : Chain::further);
  if (done == all) finish<T>(d, pending);
}

}  // namespace cottention::sm80
