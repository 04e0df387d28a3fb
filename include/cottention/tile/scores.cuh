// What holds for the scores of a chunk whichever way they are multiplied: the causal mask, and the arithmetic
// of scores of few terms.
#pragma once

#include <concepts>

#include <cottention/device/memory.cuh>
#include <cottention/device/warp.cuh>
#include <cottention/recurrence.hpp>
#include <cottention/tile/lane.cuh>
#include <cottention/tile/row_norm.cuh>

namespace cottention::tile {

/// The causal mask: a row sees the terms at its own position and earlier ones, in reverse its own and later
/// ones.
template <recurrence::Direction direction>
__device__ __forceinline__ bool is_visible(int row, int term) {
  return direction == recurrence::Direction::forward ? term <= row : term >= row;
}

/// What the rest of a score is multiplied by: the rounding error of a half, 2^-11 of it, may be below half's
/// range.
template <Element T>
inline constexpr Accumulate<T> rest_scale{std::same_as<T, half> ? 0x1p11 : 1};

namespace detail {

/// sum += x, and off += the rounding error of that sum. Knuth's two-sum.
__device__ __forceinline__ void add_exactly(float x, float& sum, float& off) {
  const float before = sum;
  sum += x;
  const float added = sum - before;
  off += (before - (sum - added)) + (x - added);
}

}  // namespace detail

/// dots = a_r . b_r for the rows r = top + g and top + g + 8 of tiles (16, depth) of 16-bit elements, whose
/// products fp32 holds: as if rounded once. Scope: warp; barriers inside: 0.
template <class Rows>
__device__ __forceinline__ void dots_of_rows(const Rows& a, const Rows& b, Lane lane, float (&dots)[2],
                                             int top = 0) {
  using T = typename Rows::Element;
  const auto load = [](const T* from) { return device::load_shared(reinterpret_cast<const Vec<T>*>(from)); };
#pragma unroll
  for (int lower = 0; lower < 2; ++lower) {
    const int row = top + lane.g() + 8 * lower;
    float sum = 0, off = 0;
#pragma unroll 1
    for (int c = lane.t() * Rows::vec_size; c < Rows::columns; c += 4 * Rows::vec_size) {
      const Vec<T> x = load(a.at(row, c)), y = load(b.at(row, c));
#pragma unroll
      for (int e = 0; e < Rows::vec_size; ++e)
        detail::add_exactly(element<T>(x, e) * element<T>(y, e), sum, off);
    }
#pragma unroll
    for (int distance = 1; distance < 4; distance *= 2) {
      off += device::shuffle_xor(off, distance);
      detail::add_exactly(device::shuffle_xor(sum, distance), sum, off);
    }
    dots[lower] = sum + off;
  }
}

}  // namespace cottention::tile
