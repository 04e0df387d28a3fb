// Operands of fp32 for a matrix unit, in bfloat16 parts whose sum they are.
//
// Of three parts the sum is exact; products of parts i and j with i + j < 3 are all that fp32 tells from 0
// beside the first. Terms are in the order (r, r + 16) of each 32, on both sides.
#if !defined(COTTENTION_CPU_TILE_PARTS_HPP)
#define COTTENTION_CPU_TILE_PARTS_HPP

#include <cottention/cpu/tile_rows.hpp>

#if COTTENTION_CPU_TILES

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::cpu::COTTENTION_CPU_TARGET {

/// Splits the fp32 elements x and y into `parts` bfloat16 ones, whose sums they are: of two parts to 2^-16,
/// of three exactly. Part p of both, as pairs, goes to `to` + p * part_step.
template <int parts>
[[gnu::always_inline]] inline void store_parts(TileVectors::Vector x, TileVectors::Vector y,
                                               std::uint32_t* to, std::ptrdiff_t part_step) {
  using V = TileVectors;
#pragma GCC unroll 3
  for (int p = 0; p < parts; ++p) {
    const V::Pairs x_bits = reinterpret_cast<V::Pairs>(x) + 0x8000u;
    const V::Pairs y_bits = reinterpret_cast<V::Pairs>(y) + 0x8000u;
    const V::Pairs y_high = y_bits & 0xffff0000u;
    V::store_as(to + p * part_step, (x_bits >> 16) | y_high);
    if (p + 1 < parts) {
      x -= V::widen_high(x_bits);
      y -= reinterpret_cast<V::Vector>(y_high);
    }
  }
}

/// The largest magnitude that a row of an operand may have, and the smallest that its largest element may
/// have, unless all are 0: then neither products of three operands nor their parts leave the range of fp32.
inline constexpr float min_part_row = 0x1p-40f, max_part_row = 0x1p30f;

namespace detail {

/// Makes `largest` the larger magnitudes, in bits, so that a NaN stays one.
[[gnu::always_inline]] inline void take_magnitudes(TileVectors::Bits& largest, TileVectors::Vector x) {
  const TileVectors::Bits magnitude = reinterpret_cast<TileVectors::Bits>(x) & 0x7fffffff;
  largest = magnitude > largest ? magnitude : largest;
}
/// Whether each of these largest magnitudes is 0 or in the range.
[[gnu::always_inline]] inline bool in_part_range(TileVectors::Bits largest) {
  using V = TileVectors;
  const V::Vector x = reinterpret_cast<V::Vector>(largest);
  const V::Bits inside = (largest == 0) | ((x >= V::splat(min_part_row)) & (x <= V::splat(max_part_row)));
  return !V::any(~inside);
}
/// The same for rows, each of whose lanes holds the largest of some elements.
[[gnu::always_inline]] inline bool rows_in_part_range(TileVectors::Bits (&rows)[TileVectors::lanes]) {
  using V = TileVectors;
  V::Vector block[V::lanes];
  for (int r = 0; r < V::lanes; ++r) block[r] = reinterpret_cast<V::Vector>(rows[r]);
  return in_part_range(reinterpret_cast<V::Bits>(combine_lanes<V>(
      block, [&](V::Vector x, V::Vector y) __attribute__((always_inline))->V::Vector {
        return V::select(reinterpret_cast<V::Bits>(x) > reinterpret_cast<V::Bits>(y), x, y);
      })));
}

}  // namespace detail

/// Rows 0 to count - 1 of `in`, (count, columns), `pitch` apart, as an operand on the left: part p is
/// (filled, depth / 2) pairs at `out` + p * part_step, with zeros past `columns` and `count`. `columns` and
/// `filled` are multiples of 16, `depth` is `columns` rounded up to 32. Returns whether all rows are in
/// range.
template <int parts>
bool split_rows(const float* in, std::ptrdiff_t pitch, int count, int filled, std::ptrdiff_t columns,
                std::ptrdiff_t depth, std::uint32_t* out, std::ptrdiff_t part_step) {
  using V = TileVectors;
  bool in_range = true;
  for (int first = 0; first < filled; first += V::lanes) {
    V::Bits largest[V::lanes] = {};
    for (int r = 0; r < V::lanes; ++r) {
      const float* const row = in + (first + r) * pitch;
      std::uint32_t* to = out + (first + r) * depth / 2;
      for (std::ptrdiff_t c = 0; c < depth; c += tile_depth, to += V::lanes) {
        const bool present = first + r < count;
        const V::Vector x = present ? V::load(row + c) : V::Vector{};
        const V::Vector y = present && c + V::lanes < columns ? V::load(row + c + V::lanes) : V::Vector{};
        detail::take_magnitudes(largest[r], x);
        detail::take_magnitudes(largest[r], y);
        store_parts<parts>(x, y, to, part_step);
      }
    }
    in_range = detail::rows_in_part_range(largest) && in_range;
  }
  return in_range;
}

/// Rows 0 to count - 1 of `in`, (count, columns), as an operand on the right with rows as terms: part p is
/// (filled / 32, columns / 16, 16, 16) pairs, with zeros past `count`. `filled` is a multiple of 32.
/// Returns whether all rows are in range.
template <int parts>
bool split_row_pairs(const float* in, std::ptrdiff_t pitch, std::ptrdiff_t count, std::ptrdiff_t filled,
                     std::ptrdiff_t columns, std::uint32_t* out, std::ptrdiff_t part_step) {
  using V = TileVectors;
  bool in_range = true;
  for (std::ptrdiff_t first = 0; first < filled; first += tile_depth) {
    V::Bits low[V::lanes] = {}, high[V::lanes] = {};
    for (int r = 0; r < V::lanes; ++r) {
      const float* const row = in + (first + r) * pitch;
      std::uint32_t* to = out + first * columns / 2 + r * V::lanes;
      for (std::ptrdiff_t c = 0; c < columns; c += V::lanes, to += V::lanes * V::lanes) {
        const V::Vector x = first + r < count ? V::load(row + c) : V::Vector{};
        const V::Vector y = first + r + V::lanes < count ? V::load(row + V::lanes * pitch + c) : V::Vector{};
        detail::take_magnitudes(low[r], x);
        detail::take_magnitudes(high[r], y);
        store_parts<parts>(x, y, to, part_step);
      }
    }
    in_range = detail::rows_in_part_range(low) && detail::rows_in_part_range(high) && in_range;
  }
  return in_range;
}

/// Columns 0 to count - 1 of `in`, (terms, count), as an operand on the right: part p is (filled / 16,
/// depth / 2, 16) pairs, with zeros past `terms`, a multiple of 16, and `count`. No parts: the check alone.
/// Returns whether all columns are in range.
template <int parts>
bool split_column_pairs(const float* in, std::ptrdiff_t pitch, int count, int filled, std::ptrdiff_t terms,
                        std::ptrdiff_t depth, std::uint32_t* out, std::ptrdiff_t part_step) {
  using V = TileVectors;
  bool in_range = true;
  for (int first = 0; first < filled; first += V::lanes) {
    V::Bits largest{};
    const V::Bits present = V::iota() + first < V::Bits{} + count;
    std::uint32_t* to = out + first * depth / 2;
    for (std::ptrdiff_t c = 0; c < depth; c += tile_depth)
      for (int r = 0; r < V::lanes; ++r, to += V::lanes) {
        const float* const at = in + (c + r) * pitch + first;
        const V::Vector x = V::select(present, V::load(at), V::Vector{});
        const V::Vector y = c + V::lanes < terms
                                ? V::select(present, V::load(at + V::lanes * pitch), V::Vector{})
                                : V::Vector{};
        detail::take_magnitudes(largest, x);
        detail::take_magnitudes(largest, y);
        store_parts<parts>(x, y, to, part_step);
      }
    in_range = detail::in_part_range(largest) && in_range;
  }
  return in_range;
}

}  // namespace cottention::cpu::COTTENTION_CPU_TARGET

#if defined(__clang__)
#pragma float_control(pop)
#endif

#endif

#endif
