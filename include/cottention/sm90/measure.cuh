// Norms of the rows that a warp has of a tile.
#pragma once

#include <concepts>

#include <cottention/device/mma.cuh>
#include <cottention/device/warp.cuh>
#include <cottention/sm90/tiles.cuh>
#include <cottention/tile/row_norm.cuh>
#include <cottention/tile/row_reader.cuh>

namespace cottention::sm90 {

/// The row of the warp's 16 whose norm a lane has: g, or g + 8 where t is odd. Each row has two such lanes,
/// of which one writes.
template <bool kept = false>
__device__ __forceinline__ int own_row() {
  const int thread = thread_index<kept>();
  return (thread / 2 & 48) | (thread / 4 & 7) | (thread << 3 & 8);
}
template <bool kept = false>
__device__ __forceinline__ bool writes_own_row() {
  return (thread_index<kept>() & 2) == 0;
}

/// What the lanes have of their own rows, for rows g and g + 8 of each lane. Scope: warp; barriers inside: 0.
template <bool kept = false>
__device__ __forceinline__ void to_both_rows(float own, float (&both)[2]) {
  const float other = device::shuffle_xor(own, 1);
  const bool odd = lane_index<kept>() % 2 != 0;
  both[0] = odd ? other : own;
  both[1] = odd ? own : other;
}

/// The other way round.
template <bool kept = false>
__device__ __forceinline__ float own_of(const float (&both)[2]) {
  return lane_index<kept>() % 2 != 0 ? both[1] : both[0];
}

/// Sums of squares of the warp's rows, as the diagonal of x x^T: operand a of x is operand b of x^T too,
/// eight rows in each register. Tensor cores cut the sums off, by at most 2^-20 of them for 128 columns.
template <Element T, bool kept = false>
class RowSquares {
 public:
  /// Adds those of 16 columns, which `r` has as operand a. Scope: warp.
  __device__ __forceinline__ void add(const std::uint32_t (&r)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      const std::uint32_t both[2] = {r[i], r[i + 1]};
      device::mma_m16n8k8<T>(by_upper_, both, r[i]);
      device::mma_m16n8k8<T>(by_lower_, both, r[i + 1]);
    }
  }
  /// Whether the lane has those of rows g and g + 8, as of_both_rows() returns them.
  static __device__ __forceinline__ bool are_here() {
    const int lane = lane_index<kept>();
    return lane / 8 == lane % 4;
  }
  __device__ __forceinline__ void of_both_rows(float (&squares)[2]) const {
    const bool odd = lane_index<kept>() / 4 % 2 != 0;
    squares[0] = odd ? by_upper_[1] : by_upper_[0];
    squares[1] = odd ? by_lower_[3] : by_lower_[2];
  }
  /// That of the lane's own row. Scope: warp; barriers inside: 0.
  __device__ __forceinline__ float of_own_row() const {
    float squares[2];
    of_both_rows(squares);
    const int lane = lane_index<kept>(), from = lane / 4 * 4 + lane / 8;
#pragma unroll
    for (int h = 0; h < 2; ++h) squares[h] = device::shuffle(squares[h], from);
    return own_of<kept>(squares);
  }

 private:
  float by_upper_[4] = {}, by_lower_[4] = {};  // rows of x by rows 0, ..., 7 and by 8, ..., 15
};

/// The sum of squares of the lane's own row. Scope: warp; barriers inside: 0.
template <bool kept = false, Element T, int columns>
__device__ __forceinline__ float squares_of_own_row(const RowFragments<T, columns>& x) {
  RowSquares<T, kept> squares;
#pragma unroll
  for (int k = 0; k < columns / 16; ++k) squares.add(x.r[k]);
  return squares.of_own_row();
}

template <bool kept = false, Element T, int columns>
__device__ __forceinline__ float squares_of_own_row(Tile<T, columns>& tile) {
  RowSquares<T, kept> squares;
  for_each_fragment<kept>(tile, [&](const RowFragments<T, 16>& x) { squares.add(x.r[0]); });
  return squares.of_own_row();
}
/// The norm of the lane's own row, or an upper bound of it where its sum of squares is below 2^-80, where
/// squares may have underflowed; 0 for zeros alone. Scope: warp; barriers inside: 0.
template <Element T, int columns>
__device__ __forceinline__ float norm_bound_of_own_row(const RowFragments<T, columns>& x, float squares) {
  tile::RowNorm<float> norm{squares, 0};
  const bool vanishes = squares < 0x1p-80f;
  if (device::any_lane(vanishes)) {
    float largest[2] = {};
    x.for_each([&](float element, int h, int, int) {
      const float magnitude = device::magnitude(element);
      largest[h] = magnitude > largest[h] ? magnitude : largest[h];
    });
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int distance = 1; distance < 4; distance *= 2) {
        const float other = device::shuffle_xor(largest[h], distance);
        largest[h] = other > largest[h] ? other : largest[h];
      }
    const float own = own_of(largest);
    if (vanishes && own > 0) norm = tile::norm_bound(columns, own);
  }
  return norm.norm();
}

/// Whether the lane's elements of the warp's rows are finite.
template <Element T, int columns>
__device__ __forceinline__ bool are_finite(Tile<T, columns>& tile) {
  bool finite = true;
  for_each_fragment(tile, [&](const RowFragments<T, 16>& x) { finite = are_finite<T>(x.r) && finite; });
  return finite;
}

/// Whether a row cannot be an operand as it is: fp32 could not square it, or half's range not hold its
/// products. `shift`: the exponent that its norm is to have for half.
template <Element T>
__device__ __forceinline__ bool is_extreme(float squares, int shift = 0) {
  if (std::same_as<T, half>)
    return squares != 0 && !tile::in_range<T>(device::times_power_of_two(squares, -2 * shift));
  return !tile::in_range<T>(squares);
}

/// Whether the lane's own row is of zeros alone, as masked rows are. Scope: warp; barriers
/// inside: 0.
template <Element T, int columns>
__device__ __forceinline__ bool own_row_is_zero(Tile<T, columns>& tile) {
  std::uint32_t magnitudes[2] = {};
  for_each_fragment(tile, [&](const RowFragments<T, 16>& x) {
#pragma unroll
    for (int i = 0; i < 4; ++i) magnitudes[i % 2] |= x.r[0][i] & 0x7fff7fffu;
  });
#pragma unroll
  for (int distance = 1; distance < 4; distance *= 2)
#pragma unroll
    for (int h = 0; h < 2; ++h) magnitudes[h] |= device::shuffle_xor(magnitudes[h], distance);
  return (lane_index() % 2 != 0 ? magnitudes[1] : magnitudes[0]) == 0;
}

/// The norm of the lane's own row, which is scaled in place by a power of two, exact but for elements 2^-14
/// of the largest (half) or smaller still, where it is extreme. Rows of zeros and rows that are not finite
/// stay. Scope: warp; barriers inside: 0. A fence_proxy_async() and a barrier must be between it and products
/// that read the tile.
template <Element T, int columns>
__device__ __forceinline__ tile::RowNorm<float> rescale_own_row(Tile<T, columns>& tile, float squares,
                                                                int shift = 0) {
  using Reader = tile::RowReader<device::warp_size, 16, Tile<T, columns>>;
  static_assert(Reader::lanes_per_row == 2);
  // Lanes 2 r and 2 r + 1 read row r, whose squares lanes 4 g and 4 g + 1 have.
  const int lane = lane_index(), r = lane / 2, from = r % 8 * 4 + r / 8;
  const float of_row = device::shuffle(squares, from);
  const int shift_of_row = device::shuffle(shift, from);
  const Reader reader{tile, 16 * warp_in_group() + r};
  device::sync_warp();  // all lanes have read the rows
  const tile::RowNorm<float> norm =
      tile::rescale_row(reader, of_row, is_extreme<T>(of_row, shift_of_row), shift_of_row);
  const int back = 2 * (lane / 4 + lane % 2 * 8);
  return {device::shuffle(norm.sum_sq, back), device::shuffle(norm.exponent, back)};
}

}  // namespace cottention::sm90
