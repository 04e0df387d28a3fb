// A block of products on a matrix unit, (rows, columns) tiles of sums, at most 2 x 2 in its eight tiles.
#pragma once

#include <cottention/cpu/matrix_unit.hpp>

namespace cottention::cpu {

/// An operand of a block on the left, rows `stride` bytes apart: `first` is its first tile, in pairs of
/// bfloat16, and its second one is `next` pairs further. Part p of both is p * part_step pairs further.
struct LeftTiles {
  const std::uint32_t* first;
  std::ptrdiff_t next, part_step, stride;
};
/// The same on the right. Rows of 64 bytes follow each other.
struct RightTiles {
  const std::uint32_t* first;
  std::ptrdiff_t next, part_step;
};

/// Sums are in tiles 0 to 3, operands on the left in 4 and 5, those on the right in 6 and 7.
template <class Unit, int rows, int columns>
struct TileBlock {
  static_assert(rows >= 1 && rows <= 2 && columns >= 1 && columns <= 2);
  Unit& unit;

  [[gnu::always_inline]] void zero() {
    unit.template zero<0>();
    if constexpr (columns == 2) unit.template zero<1>();
    if constexpr (rows == 2) unit.template zero<2>();
    if constexpr (rows == 2 && columns == 2) unit.template zero<3>();
  }
  /// sums += left right, in parts of both. Of parts i and j, those products are left out which an operand
  /// with one part more would make as well: i + j is less than the larger number of parts. The order of the
  /// others loads few tiles.
  template <int left_parts, int right_parts>
  [[gnu::always_inline]] void multiply(const LeftTiles& left, const RightTiles& right) {
    if constexpr (left_parts == 3 && right_parts == 3) {
      load_right(right, 2), load_left(left, 0), multiply_once();
      load_right(right, 1), multiply_once();
      load_left(left, 1), multiply_once();
      load_right(right, 0), multiply_once();
      load_left(left, 2), multiply_once();
      load_left(left, 0), multiply_once();
    } else {
      static_assert(left_parts == 1 || right_parts == 1);
      for (int p = 0; p < left_parts + right_parts - 1; ++p) {
        if (right_parts > 1 || p == 0) load_right(right, p);
        if (left_parts > 1 || p == 0) load_left(left, p);
        multiply_once();
      }
    }
  }
  /// Stores the sums to `to`, (32, 32).
  [[gnu::always_inline]] void store(float* to) {
    constexpr std::ptrdiff_t pitch = 2 * tile_extent, stride_bytes = pitch * 4;
    unit.template store<0>(to, stride_bytes);
    if constexpr (columns == 2) unit.template store<1>(to + tile_extent, stride_bytes);
    if constexpr (rows == 2) unit.template store<2>(to + tile_extent * pitch, stride_bytes);
    if constexpr (rows == 2 && columns == 2)
      unit.template store<3>(to + tile_extent * pitch + tile_extent, stride_bytes);
  }

 private:
  [[gnu::always_inline]] void load_right(const RightTiles& right, int part) {
    const std::uint32_t* const at = right.first + part * right.part_step;
    unit.template load<6>(at, 64);
    if constexpr (columns == 2) unit.template load<7>(at + right.next, 64);
  }
  [[gnu::always_inline]] void load_left(const LeftTiles& left, int part) {
    const std::uint32_t* const at = left.first + part * left.part_step;
    unit.template load<4>(at, left.stride);
    if constexpr (rows == 2) unit.template load<5>(at + left.next, left.stride);
  }
  [[gnu::always_inline]] void multiply_once() {
    unit.template multiply<0, 4, 6>();
    if constexpr (columns == 2) unit.template multiply<1, 4, 7>();
    if constexpr (rows == 2) unit.template multiply<2, 5, 6>();
    if constexpr (rows == 2 && columns == 2) unit.template multiply<3, 5, 7>();
  }
};

/// Calls f.template operator()<rows, columns>() with 1 or 2 of each.
template <class F>
[[gnu::always_inline]] inline void with_block_size(bool two_rows, bool two_columns, F f) {
  if (two_rows && two_columns)
    f.template operator()<2, 2>();
  else if (two_rows)
    f.template operator()<2, 1>();
  else if (two_columns)
    f.template operator()<1, 2>();
  else
    f.template operator()<1, 1>();
}

}  // namespace cottention::cpu
