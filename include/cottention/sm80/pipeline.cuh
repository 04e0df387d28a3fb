// Chunks on their way from global to shared memory while earlier ones are computed on.
#pragma once

#include <cottention/device/async_copy.cuh>
#include <cottention/device/barrier.cuh>
#include <cottention/tile/cursor.cuh>

namespace cottention::sm80 {

/// Calls `copy(cursor)`, which starts copies, `stages` - 1 steps ahead of `compute(cursor)`. Before the
/// barrier that ends the wait for a step's copies, every warp calls `prepare(cursor)`. By the whole block;
/// ends with no copy in flight.
template <int stages, int chunk, tile::Direction direction, class Copy, class Prepare, class Compute>
__device__ __forceinline__ void for_each_step(int first, int last, int group, Copy copy, Prepare prepare,
                                              Compute compute) {
  using Position = tile::Cursor<stages, chunk, direction>;
  const auto start_copy = [&](const Position& at) {
    if (at.within(first, last)) copy(at);
    device::cp_async_commit();  // an empty group where nothing is left, so that waiting counts alike
  };
  {
    Position ahead = Position::start(first, last);
#pragma unroll 1
    for (int s = 0; s < stages - 1; ++s, ahead.advance(group)) start_copy(ahead);
  }
#pragma unroll 1
  for (Position now = Position::start(first, last); now.within(first, last); now.advance(group)) {
    if constexpr (stages == 1) {
      device::sync_block();  // the last step's readers are done with the only buffer
      start_copy(now);
    }
    device::cp_async_wait<stages == 1 ? 0 : stages - 2>();
    prepare(now);
    // All threads' copies have landed; readers of the buffer that is filled next are done.
    device::sync_block();
    if constexpr (stages > 1) {
      Position ahead = now;  // found anew each time: a lane has no registers to keep it
#pragma unroll
      for (int s = 0; s < stages - 1; ++s) ahead.advance(group);
      start_copy(ahead);
    }
    compute(now);
  }
  device::cp_async_wait<0>();
}

}  // namespace cottention::sm80
