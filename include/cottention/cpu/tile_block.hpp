// A block of products on a matrix unit, (rows, columns) tiles of sums, at most 2 x 2 in its eight tiles.
#pragma once

#include <cottention/cpu/matrix_unit.hpp>

namespace cottention::cpu {

/// Sums are in tiles 0 to 3, operands on the left in 4 and 5, those on the right in 6 and 7. Pointers are to
/// the first tile; the second one is `next` elements further.
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
  template <class E>
  [[gnu::always_inline]] void load_left(const E* a, std::ptrdiff_t next, std::ptrdiff_t stride_bytes) {
    unit.template load<4>(a, stride_bytes);
    if constexpr (rows == 2) unit.template load<5>(a + next, stride_bytes);
  }
  /// Rows of 64 bytes follow each other.
  [[gnu::always_inline]] void load_right(const std::uint32_t* b, std::ptrdiff_t next) {
    unit.template load<6>(b, 64);
    if constexpr (columns == 2) unit.template load<7>(b + next, 64);
  }
  /// sums += left right.
  [[gnu::always_inline]] void multiply() {
    unit.template multiply<0, 4, 6>();
    if constexpr (columns == 2) unit.template multiply<1, 4, 7>();
    if constexpr (rows == 2) unit.template multiply<2, 5, 6>();
    if constexpr (rows == 2 && columns == 2) unit.template multiply<3, 5, 7>();
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
