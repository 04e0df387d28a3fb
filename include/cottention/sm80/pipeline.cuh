// The software pipeline over the chunks of a walk: the copies of later chunks run while a chunk is computed.
#pragma once

#include <cottention/device/async_copy.cuh>
#include <cottention/device/barrier.cuh>
#include <cottention/tile/cursor.cuh>

namespace cottention::sm80 {

/// For each step of a walk through rows first, ..., last - 1, a chunk and a query head of `group`:
/// `prepare(cursor)`, a barrier, `compute(cursor)`. `copy(cursor)`, which starts the copies of a step to the
/// stage of its cursor, is called `stages` - 1 steps ahead. compute() may read the step's tiles and what
/// prepare() wrote; prepare() may not read the tiles. With more than one stage no barrier is between
/// compute() of a step and prepare() of the next one. No copy is in flight at the end. Scope: block; barriers
/// inside: 1 for each step, 2 with one stage, and those of prepare() and compute(). A barrier must be between
/// the last step and other writes to the tiles.
template <int stages, int chunk, recurrence::Direction direction, class Copy, class Prepare, class Compute>
__device__ __forceinline__ void for_each_step(int first, int last, int group, Copy copy, Prepare prepare,
                                              Compute compute) {
  using Position = tile::Cursor<stages, chunk, direction>;
  const auto start_copy = [&](const Position& at) {
    if (at.within(first, last)) copy(at);
    device::cp_async_commit();  // an empty group after the last step, so that cp_async_wait() counts the same
  };
  {
    Position ahead = Position::start(first, last);
#pragma unroll 1
    for (int s = 0; s < stages - 1; ++s, ahead.advance(group)) start_copy(ahead);
  }
#pragma unroll 1
  for (Position now = Position::start(first, last); now.within(first, last); now.advance(group)) {
    if constexpr (stages == 1) {
      device::sync_block();  // the tiles of the last step are read
      start_copy(now);
    }
    device::cp_async_wait<stages == 1 ? 0 : stages - 2>();
    prepare(now);
    // The copies of all threads are visible; the tiles of the stage that is filled next are read.
    device::sync_block();
    if constexpr (stages > 1) {
      Position ahead = now;  // computed in every step: kept, it would take four registers
#pragma unroll
      for (int s = 0; s < stages - 1; ++s) ahead.advance(group);
      start_copy(ahead);
    }
    compute(now);
  }
  device::cp_async_wait<0>();
}

}  // namespace cottention::sm80
