// Small matrices spread over the registers of a warp.
//
// With g = lane / 4 and t = lane % 4 every matrix here has the same map from lanes to elements, that of the
// tensor cores' sums: a lane holds columns 2t and 2t + 1 of rows g and g + 8. So sums become operands, and an
// operand on the left becomes one on the right, without any exchange. For 32-bit and 64-bit elements this
// reorders the terms of a product: the instruction's column t is our 2t, its column t + 4 our 2t + 1, on both
// sides.
#pragma once

#include <concepts>
#include <cstdint>
#include <type_traits>

#include <cottention/device/convert.cuh>
#include <cottention/device/math.cuh>
#include <cottention/device/matrix.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/mma.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/tile/layout.cuh>

namespace cottention::tile {

/// 16 x 8 sums: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
template <class A>
struct Sums {
  A values[4];
};

template <class A>
__device__ __forceinline__ void clear(Sums<A>& sums) {
#pragma unroll
  for (int e = 0; e < 4; ++e) sums.values[e] = A{0};
}

/// Terms of a product that one block holds.
template <Element T>
inline constexpr int terms = sizeof(T) == 2 ? 16 : 8;

/// An operand, 16 x terms<T>, as it is in memory: on the left of a product, or transposed on its right.
///
///     16-bit   (g, 2t..), (g + 8, 2t..), (g, 2t + 8..), (g + 8, 2t + 8..)     .. that element and the next
///     others   (g, 2t), (g + 8, 2t), (g, 2t + 1), (g + 8, 2t + 1)
template <Element T>
struct Block {
  using Register = std::conditional_t<sizeof(T) == 2, std::uint32_t, T>;
  Register r[4];
};

/// An operand as the sum of two that the tensor cores take: 16-bit elements, or tf32 for fp32.
template <Element T>
struct SplitBlock {
  std::uint32_t high[4], low[4];
};

// ---- from shared memory
// --------------------------------------------------------------------------------------------

/// Rows of the tile are rows of the block: (row.., column..), 16 x terms<T>.
template <Element T, int rows, int columns>
__device__ __forceinline__ Block<T> load_rows(const Tile<T, rows, columns>& tile, int row, int column) {
  const int lane = device::lane_index();
  Block<T> block;
  if constexpr (sizeof(T) == 2) {
    device::ldmatrix_x4(block.r, tile.at(row + lane % 16, column + lane / 16 * 8));
  } else {
    using Pair = device::Vector<T, 2>;
    const int g = lane / 4, t = lane % 4;
    const Pair upper = device::load_shared(reinterpret_cast<const Pair*>(tile.at(row + g, column + 2 * t)));
    const Pair lower =
        device::load_shared(reinterpret_cast<const Pair*>(tile.at(row + g + 8, column + 2 * t)));
    block.r[0] = upper[0];
    block.r[1] = lower[0];
    block.r[2] = upper[1];
    block.r[3] = lower[1];
  }
  return block;
}

/// Columns of the tile are rows of the block: (row.., column..), terms<T> x 16, transposed.
template <Element T, int rows, int columns>
__device__ __forceinline__ Block<T> load_columns(const Tile<T, rows, columns>& tile, int row, int column) {
  const int lane = device::lane_index();
  Block<T> block;
  if constexpr (sizeof(T) == 2) {
    device::ldmatrix_x4_trans(block.r, tile.at(row + lane % 8 + lane / 16 * 8, column + lane / 8 % 2 * 8));
  } else {
    const int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int e = 0; e < 4; ++e)
      block.r[e] = device::load_shared(tile.at(row + 2 * t + e / 2, column + g + e % 2 * 8));
  }
  return block;
}

// ---- numbers into operands
// -----------------------------------------------------------------------------------------

namespace detail {

/// high + low = x to the precision of two numbers of the tensor cores' type.
template <Element T>
__device__ __forceinline__ void split(float x0, float x1, std::uint32_t& high, std::uint32_t& low) {
  high = device::pack<T>(x0, x1);
  low = device::pack<T>(x0 - device::unpack_low<T>(high), x1 - device::unpack_high<T>(high));
}
__device__ __forceinline__ void split_tf32(float x, std::uint32_t& high, std::uint32_t& low) {
  high = device::round_to_tf32(x);
  low = device::round_to_tf32(x - device::bits_as<float>(high));
}

}  // namespace detail

/// What the tensor cores take for `block`, with no rounding beyond that of fp32.
template <Element T>
__device__ __forceinline__ auto operand(const Block<T>& block) {
  if constexpr (std::same_as<T, float>) {
    SplitBlock<T> split;
#pragma unroll
    for (int e = 0; e < 4; ++e) detail::split_tf32(block.r[e], split.high[e], split.low[e]);
    return split;
  } else {
    return block;
  }
}

/// Factors of the terms that a lane holds.
template <Element T>
struct TermFactors {
  Accumulate<T> f[terms<T> / 4];
};
template <Element T>
__device__ __forceinline__ TermFactors<T> load_factors(const Accumulate<T>* factors_shared) {
  using Pair = device::Vector<Accumulate<T>, 2>;
  const int t = device::lane_index() % 4;
  TermFactors<T> factors;
#pragma unroll
  for (int e = 0; e < terms<T> / 8; ++e) {
    const Pair pair = device::load_shared(reinterpret_cast<const Pair*>(factors_shared + 8 * e + 2 * t));
    factors.f[2 * e] = pair[0];
    factors.f[2 * e + 1] = pair[1];
  }
  return factors;
}

/// The block with each term multiplied, to about fp32's precision (fp64's for fp64).
template <Element T>
__device__ __forceinline__ auto scaled_operand(const Block<T>& block, const TermFactors<T>& factors) {
  if constexpr (sizeof(T) == 2) {
    SplitBlock<T> split;
#pragma unroll
    for (int e = 0; e < 4; ++e)
      detail::split<T>(device::unpack_low<T>(block.r[e]) * factors.f[e / 2 * 2],
                       device::unpack_high<T>(block.r[e]) * factors.f[e / 2 * 2 + 1], split.high[e],
                       split.low[e]);
    return split;
  } else {
    Block<T> scaled;
#pragma unroll
    for (int e = 0; e < 4; ++e) scaled.r[e] = block.r[e] * factors.f[e / 2];
    return operand(scaled);
  }
}

/// terms<T> / 8 neighbouring sums, 16 x terms<T>, times `scale`, as an operand.
template <Element T>
__device__ __forceinline__ auto operand(const Sums<Accumulate<T>>* sums, Accumulate<T> scale) {
  if constexpr (sizeof(T) == 2) {
    SplitBlock<T> split;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float* pair = sums[e / 2].values + e % 2 * 2;
      detail::split<T>(pair[0] * scale, pair[1] * scale, split.high[e], split.low[e]);
    }
    return split;
  } else {
    Block<T> block;
#pragma unroll
    for (int e = 0; e < 4; ++e) block.r[e] = sums->values[e % 2 * 2 + e / 2] * scale;
    return operand(block);
  }
}

// ---- products
// ------------------------------------------------------------------------------------------------------

namespace detail {

/// One instruction for each half of the 16 columns.
template <Element T>
__device__ __forceinline__ void multiply(Sums<float> (&d)[2], const std::uint32_t (&a)[4],
                                         const std::uint32_t (&b)[4]) {
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const std::uint32_t right[2] = {b[n], b[n + 2]};
    if constexpr (std::same_as<T, float>)
      device::mma_m16n8k8_tf32(d[n].values, a, right);
    else
      device::mma_m16n8k16<T>(d[n].values, a, right);
  }
}

}  // namespace detail

/// d += a b^T: (16, terms) (16, terms)^T -> (16, 16). Small terms first.
template <Element T>
__device__ __forceinline__ void multiply(Sums<Accumulate<T>> (&d)[2], const Block<T>& a, const Block<T>& b) {
  if constexpr (sizeof(T) == 2) {
    detail::multiply<T>(d, a.r, b.r);
  } else {
    static_assert(std::same_as<T, double>, "fp32 is split");
#pragma unroll
    for (int e = 0; e < 8; ++e) {  // two halves of the columns, of the rows, of the terms
      const int n = e / 4, m = e / 2 % 2, k = e % 2;
      double part[2] = {d[n].values[2 * m], d[n].values[2 * m + 1]};
      device::mma_m8n8k4_f64(part, a.r[m + 2 * k], b.r[n + 2 * k]);
      d[n].values[2 * m] = part[0];
      d[n].values[2 * m + 1] = part[1];
    }
  }
}
template <Element T>
__device__ __forceinline__ void multiply(Sums<float> (&d)[2], const Block<T>& a, const SplitBlock<T>& b) {
  detail::multiply<T>(d, a.r, b.low);
  detail::multiply<T>(d, a.r, b.high);
}
template <Element T>
__device__ __forceinline__ void multiply(Sums<float> (&d)[2], const SplitBlock<T>& a, const Block<T>& b) {
  detail::multiply<T>(d, a.low, b.r);
  detail::multiply<T>(d, a.high, b.r);
}
/// low times low is below the last bit.
template <Element T>
__device__ __forceinline__ void multiply(Sums<float> (&d)[2], const SplitBlock<T>& a,
                                         const SplitBlock<T>& b) {
  detail::multiply<T>(d, a.low, b.high);
  detail::multiply<T>(d, a.high, b.low);
  detail::multiply<T>(d, a.high, b.high);
}

// ---- questions
// -----------------------------------------------------------------------------------------------------

/// Whether all of this lane's elements are finite.
template <Element T>
__device__ __forceinline__ bool is_finite(const Block<T>& block) {
  bool finite = true;
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    if constexpr (sizeof(T) == 2) {
      constexpr std::uint32_t exponent = std::same_as<T, half> ? 0x7c00u : 0x7f80u;
      finite = finite && (block.r[e] & exponent) != exponent && (block.r[e] >> 16 & exponent) != exponent;
    } else {
      finite = finite && device::is_finite(block.r[e]);
    }
  }
  return finite;
}

}  // namespace cottention::tile
