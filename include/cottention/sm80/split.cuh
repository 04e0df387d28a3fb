// Operands as sums of a high and a low part, and factors that multiply the terms of an operand.
#pragma once

#include <concepts>
#include <cstdint>

#include <cottention/device/convert.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/sm80/fragment.cuh>
#include <cottention/tile/split.cuh>

namespace cottention::sm80 {

namespace detail {

/// high + low = x, to the precision of two tf32 numbers.
__device__ __forceinline__ void split_tf32(float x, std::uint32_t& high, std::uint32_t& low) {
  high = device::round_to_tf32(x);
  low = device::round_to_tf32(x - device::bits_as<float>(high));
}

}  // namespace detail

/// The fragment that the tensor cores take for `block`: split for fp32, `block` itself for the other types.
template <Element T, Operand side>
__device__ __forceinline__ auto to_operand(const Fragment<T, side>& block) {
  if constexpr (std::same_as<T, float>) {
    SplitFragment<T, side> split;
#pragma unroll
    for (int e = 0; e < 4; ++e) detail::split_tf32(block.r[e], split.high[e], split.low[e]);
    return split;
  } else {
    return block;
  }
}

/// The factors of the terms that a lane's fragment holds, of its first k and of its second k.
template <Element T>
struct LaneFactors {
  Accumulate<T> f[2][mma_k<T> / 8];
};
template <>
struct LaneFactors<bfloat16> {
  std::uint32_t high[2], low[2];
};
/// The factors of terms first, ..., first + mma_k<T> - 1 that the lane holds.
template <Element T, int chunk>
__device__ __forceinline__ LaneFactors<T> load_factors(const tile::TermFactors<T, chunk>& shared, int first,
                                                       tile::Lane lane) {
  constexpr int pairs = mma_k<T> / 8;
  LaneFactors<T> factors;
#pragma unroll
  for (int p = 0; p < pairs; ++p) {
    const int at = first + 8 * p + 2 * lane.t();
    if constexpr (tile::TermFactors<T, chunk>::split) {
      const auto pair = device::load_shared(
          reinterpret_cast<const device::Vector<std::uint32_t, 2>*>(shared.hi_lo + 2 * at));
      factors.high[p] = pair[0];
      factors.low[p] = pair[1];
    } else {
      const auto pair =
          device::load_shared(reinterpret_cast<const device::Vector<Accumulate<T>, 2>*>(shared.full + at));
#pragma unroll
      for (int e = 0; e < 2; ++e) factors.f[pairs == 2 ? p : e][pairs == 2 ? e : 0] = pair[e];
    }
  }
  return factors;
}

/// `block` as operand a with each term multiplied by its factor, (16, mma_k<T>) -> (16, mma_k<T>), split: to
/// about fp32's precision (fp64's for fp64), for bfloat16 to 2^-15 of the product.
template <Element T, Operand side>
__device__ __forceinline__ auto scaled_a(const Fragment<T, side>& block, const LaneFactors<T>& factors) {
  if constexpr (sizeof(T) == 2) {
    SplitFragment<T, Operand::a> split;
#pragma unroll
    for (int lower = 0; lower < 2; ++lower)
#pragma unroll
      for (int second = 0; second < 2; ++second) {
        const std::uint32_t pair = block.r[register_of(side, lower, second)];
        const int to = register_of(Operand::a, lower, second);
        if constexpr (std::same_as<T, bfloat16>) {
          tile::split_product(pair, factors.high[second], factors.low[second], split.high[to], split.low[to]);
        } else {
          tile::split<T>(device::unpack_low<T>(pair) * factors.f[second][0],
                         device::unpack_high<T>(pair) * factors.f[second][1], split.high[to], split.low[to]);
        }
      }
    return split;
  } else {
    Fragment<T, Operand::a> scaled;
#pragma unroll
    for (int lower = 0; lower < 2; ++lower)
#pragma unroll
      for (int second = 0; second < 2; ++second)
        scaled.r[register_of(Operand::a, lower, second)] =
            block.r[register_of(side, lower, second)] * factors.f[second][0];
    return to_operand(scaled);
  }
}

/// mma_k<T> / 8 neighbouring accumulators, (16, mma_k<T>), as operand b, split. For half they are multiplied
/// by `scale` to fit half's range; the other types have the range of the accumulators.
template <Element T>
__device__ __forceinline__ auto b_operand(const Accumulator<Accumulate<T>>* sums,
                                          [[maybe_unused]] Accumulate<T> scale) {
  if constexpr (sizeof(T) == 2) {
    SplitFragment<T, Operand::b> split;
#pragma unroll
    for (int lower = 0; lower < 2; ++lower)
#pragma unroll
      for (int second = 0; second < 2; ++second) {
        const float* pair = sums[second].values + 2 * lower;
        const int to = register_of(Operand::b, lower, second);
        if constexpr (std::same_as<T, half>)
          tile::split<T>(pair[0] * scale, pair[1] * scale, split.high[to], split.low[to]);
        else
          tile::split<T>(pair[0], pair[1], split.high[to], split.low[to]);
      }
    return split;
  } else {
    Fragment<T, Operand::b> block;
#pragma unroll
    for (int e = 0; e < 4; ++e) block.r[register_of(Operand::b, e / 2, e % 2)] = sums->values[e];
    return to_operand(block);
  }
}

}  // namespace cottention::sm80
