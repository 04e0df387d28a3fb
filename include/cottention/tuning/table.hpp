// The tilings from which one is chosen at run time.
#pragma once

#include <array>
#include <cstddef>

#include <cottention/tiling.hpp>

namespace cottention::tuning {

/// Rows of one Problem's kernels, each of which is compiled.
struct TilingTable {
  std::array<Tiling, 4> list{};
  std::size_t count = 0;

  constexpr void add(Tiling tiling) { list[count++] = tiling; }
};

}  // namespace cottention::tuning
