// The tilings of step.
#pragma once

#include <array>

#include <cottention/kernel/step.cuh>

namespace cottention::tuning {

/// The tiling whose blocks have as many columns as `warps` warps can hold, shared out evenly among blocks; 0
/// columns where they cannot hold any.
template <AnyProblem P>
constexpr Tiling step_tiling(int warps) {
  using Parts = kernel::StepParts<P>;
  constexpr int eights = P::head_dim.v / 8;  // columns come in eights: 16 bytes of 16-bit elements
  const int most = warps * 32 / Parts::groups * Parts::width / 8;
  if (most == 0) return {};
  const int blocks = (eights + most - 1) / most;
  Tiling tiling{
      .chunk = 0, .stages = 1, .columns = 8 * ((eights + blocks - 1) / blocks), .arch = Arch::sm_80};
  const int vectors = Parts::groups * (tiling.columns / Parts::width);
  tiling.warps = (vectors + 31) / 32;
  // A row of the chunk has up to 512 bytes of partial sums for each warp: 16 KiB in all.
  tiling.chunk = tiling.warps < 2 ? 16 : 32 / tiling.warps;
  // What keeps ptxas of CUDA 13.0 from spilling: the state takes 32 registers of these, 64 beyond dim_qk 256.
  // At 80 each, 96 KiB of states are in flight on a multiprocessor; 3 TB/s over 0.7 microseconds need 16 KiB.
  const int registers = Parts::rows > 8 ? 256 : sizeof(typename P::accumulate) == 8 ? 112 : 80;
  const int threads_at_once = 65536 / registers;
  tiling.blocks = threads_at_once / (32 * tiling.warps) > 16 ? 16 : threads_at_once / (32 * tiling.warps);
  return tiling;
}

/// Blocks of different size for one Problem, the largest first. All give the same bits.
struct StepTilings {
  std::array<Tiling, 4> list{};
  int count = 0;
};

template <AnyProblem P>
inline constexpr StepTilings step_tilings = [] {
  StepTilings tilings;
  for (int warps = 8; warps >= 1; warps /= 2) {
    const Tiling tiling = step_tiling<P>(warps);
    const bool new_one = tilings.count == 0 || tilings.list[tilings.count - 1].columns != tiling.columns;
    if (tiling.columns > 0 && new_one) tilings.list[tilings.count++] = tiling;
  }
  return tilings;
}();

}  // namespace cottention::tuning
