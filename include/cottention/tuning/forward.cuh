// Which Tiling a Problem's forward kernels get.
//
// Registers come first: a warp's 16 columns of the state take dim_qk / 2 of a lane's, twice that for fp64,
// and nothing may spill (cmake/spill_check.py holds the rows to that). Then shared memory: the longest chunk,
// and two stages where they fit.
#pragma once

#include <cottention/problem.hpp>
#include <cottention/tile/layout.cuh>
#include <cottention/tiling.hpp>

namespace cottention {

/// The most shared memory that a thread block may ask for. CUDA C++ Programming Guide, "Technical
/// Specifications per Compute Capability": 8.0 has 163 KiB, 9.0 and 10.0 have 227; 8.6, 8.9 and 12.0 have 99.
inline constexpr int shared_bytes_of_large_devices = 163 * 1024;
inline constexpr int shared_bytes_of_all_devices = 99 * 1024;

namespace detail {

/// Shared memory of kernel::Walk, which has the most. An upper bound.
constexpr int forward_shared_bytes(int bytes, HeadDim dim, Tiling t, int warps_deep) {
  const auto pitch = [bytes](int columns) {
    return tile::round_up(tile::round_up(columns, 16) * bytes, 128);
  };
  const int sums = bytes == 8 ? 8 : 4;
  const int stage = t.chunk * (2 * pitch(tile::round_up(dim.qk, 16 * warps_deep)) + pitch(t.columns));
  const int partial = warps_deep > 1 ? t.warps * tile::round_up(t.chunk, 16) * 16 * sums : 0;
  return t.stages * stage + t.chunk * pitch(t.chunk) + partial + 3 * t.chunk * sums + 1536;
}

}  // namespace detail

/// The tiling of forward's kernels for head dimensions `dim` of `bytes`-byte elements, within `shared_bytes`
/// where any tiling is.
constexpr Tiling forward_tiling(int bytes, HeadDim dim, int shared_bytes) {
  const int width = tile::round_up(dim.v, 16);
  // Several warps share columns where one has no room for dim_qk.
  const int warp_depth = bytes == 8 && dim.qk <= 512 ? 64 : 128;
  const int deep = (dim.qk + warp_depth - 1) / warp_depth;
  const int depth = tile::round_up(dim.qk, 16 * deep);
  // Warps left for columns, 16 each.
  const int across = deep >= 8 ? 1 : 8 / deep;
  const int blocks_of_columns = (width + 16 * across - 1) / (16 * across);
  Tiling t{.chunk = bytes == 2 ? 64 : bytes == 4 ? 32 : 16, .stages = 2, .arch = Arch::sm_80};
  t.columns = tile::round_up((width + blocks_of_columns - 1) / blocks_of_columns, 16);
  t.warps = t.columns / 16 * deep;
  if (depth > 128 && t.chunk > 32) t.chunk = 32;  // registers
  if (bytes == 4 && depth > 64) t.chunk = 16;     // registers
  if (bytes == 4 && depth > 256) t.chunk = 8;     // registers
  if (bytes == 2 && depth <= 64 && t.warps <= 4)
    t.blocks = 3;  // 168 registers a lane, as shared memory has room for
  while (detail::forward_shared_bytes(bytes, dim, t, deep) > shared_bytes &&
         (t.stages > 1 || t.chunk > (bytes == 2 ? 16 : 8))) {
    if (t.chunk > 16)
      t.chunk /= 2;
    else if (t.stages > 1)
      t.stages = 1;
    else
      t.chunk = 8;
  }
  return t;
}

/// The row for devices with much shared memory, and the one that every device has room for where it has for
/// any.
template <AnyProblem P>
inline constexpr Tiling tuned_forward = forward_tiling(sizeof(typename P::element), P::head_dim,
                                                       shared_bytes_of_large_devices);
template <AnyProblem P>
inline constexpr Tiling compact_forward = forward_tiling(sizeof(typename P::element), P::head_dim,
                                                         shared_bytes_of_all_devices);

}  // namespace cottention
