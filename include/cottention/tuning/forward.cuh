// Which Tiling a Problem's forward kernels get. Registers decide: nothing may spill (cmake/spill_check.py
// holds every row to that). A warp's 16 columns of the state take dim_qk / 2 registers a lane, twice that for
// fp64.
#pragma once

#include <cottention/problem.hpp>
#include <cottention/tile/layout.cuh>
#include <cottention/tiling.hpp>

namespace cottention {

/// The tiling of forward's kernels for head dimensions D of `bytes`-byte elements.
constexpr Tiling forward_tiling(int bytes, HeadDim dim) {
  const int depth = tile::round_up(dim.qk, 16), width = tile::round_up(dim.v, 16);
  // Several warps share columns where one has no room for dim_qk.
  const int warp_depth = bytes == 8 ? 64 : 128;
  int deep = 1;
  while (depth / deep > warp_depth || depth % (16 * deep) != 0) ++deep;
  // Warps left for columns, 16 each.
  const int across = deep >= 8 ? 1 : 8 / deep;
  const int blocks_of_columns = (width + 16 * across - 1) / (16 * across);
  const int columns = tile::round_up((width + blocks_of_columns - 1) / blocks_of_columns, 16);
  const int chunk = depth > 256 ? 16 : bytes == 2 && depth <= 128 ? 64 : bytes == 8 ? 16 : 32;
  return {.chunk = chunk,
          .warps = columns / 16 * deep,
          .stages = 2,
          .columns = columns,
          .blocks = 1,
          .arch = Arch::sm_80};
}

template <AnyProblem P>
inline constexpr Tiling tuned_forward = forward_tiling(sizeof(typename P::element), P::head_dim);

}  // namespace cottention
