// The tilings of step.
#pragma once

#include <cstddef>

#include <cottention/kernel/step.cuh>
#include <cottention/tuning/table.hpp>

namespace cottention::tuning {

/// The tiling whose blocks have as many columns as `warps` warps can hold, shared out evenly among blocks; 0
/// columns where they cannot hold any.
template <AnyProblem P>
constexpr Tiling step_tiling(int warps) {
  using Parts = kernel::StepParts<P>;
  constexpr int eights = P::head_dim.v / 8;  // columns come in eights: 16 bytes of 16-bit elements
  const int most = warps * 32 / Parts::k_slices * Parts::width / 8;
  if (most == 0) return {};
  const int blocks = (eights + most - 1) / most;
  Tiling tiling{.chunk = 0, .stages = 1, .columns = 8 * ((eights + blocks - 1) / blocks)};
  const int vectors = Parts::k_slices * (tiling.columns / Parts::width);
  tiling.warps = (vectors + 31) / 32;
  // A row of the chunk has up to 512 bytes of partial sums for each warp: 16 KiB in all.
  tiling.chunk = tiling.warps < 2 ? 16 : 32 / tiling.warps;
  // Each of a multiprocessor's four schedulers has 512 registers for each lane of its warps. What keeps ptxas
  // of CUDA 13.0 from spilling, of which the state takes 32, and 64 beyond dim_qk 256. At 80, 24 warps have
  // 96 KiB of states in flight; 3 TB/s over 0.7 microseconds on 132 multiprocessors need 16.
  const int registers = Parts::k_rows > 8 ? 256 : sizeof(typename P::accumulate) == 8 ? 112 : 80;
  const int blocks_at_once = 4 * (512 / registers) / tiling.warps;
  tiling.min_blocks_per_sm = blocks_at_once > 16 ? 16 : blocks_at_once;  // as many as sm_86 has room for
  return tiling;
}

/// Blocks of different size for one Problem, the largest first. All give the same bits. How many warps each
/// has is unmeasured.
template <AnyProblem P>
inline constexpr TilingTable step_tilings = [] {
  TilingTable table;
  for (int warps = 8; warps >= 1; warps /= 2) {
    const Tiling tiling = step_tiling<P>(warps);
    if (tiling.columns > 0) table.add(tiling);
  }
  return table;
}();

}  // namespace cottention::tuning
