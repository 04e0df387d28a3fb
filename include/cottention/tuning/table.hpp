// The tilings from which one is chosen at run time.
#pragma once

#include <array>
#include <cstddef>

#include <cottention/tiling.hpp>

namespace cottention::tuning {

/// Rows of one Problem's kernels, all different, each of which is compiled.
struct TilingTable {
  std::array<Tiling, 4> list{};
  std::size_t count = 0;

  constexpr void add(Tiling tiling) {
    if (row_of(tiling) == count) list[count++] = tiling;
  }
  /// The count of rows where a Tiling is none of them.
  constexpr std::size_t row_of(Tiling tiling) const {
    std::size_t row = 0;
    while (row < count && list[row] != tiling) ++row;
    return row;
  }
};

}  // namespace cottention::tuning
