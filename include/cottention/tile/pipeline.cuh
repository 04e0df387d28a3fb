// Chunks on their way from global to shared memory while earlier ones are computed on.
#pragma once

#include <cottention/device/async_copy.cuh>
#include <cottention/device/barrier.cuh>

namespace cottention::tile {

/// The order in which a sequence is walked.
enum class Direction { forward, reverse };

/// A position in the order of work: chunk by chunk, and in each chunk one query head of the group after the
/// other.
template <int stages, int chunk, Direction direction>
struct Cursor {
  int row;               // first of the chunk
  int group_head = 0;    // query head of the group
  int stage = 0;         // buffer of its rows
  int shared_stage = 0;  // buffer of the chunk's rows that the group shares

  /// Chunks count from row `first`, so that the last may be short.
  static __device__ __forceinline__ Cursor start(int first, int last) {
    if (direction == Direction::forward) return {first};
    return {last <= first ? first - 1 : first + (last - 1 - first) / chunk * chunk};
  }
  /// Whether it is one of rows first, ..., last - 1: at the end of its way it is not.
  __device__ __forceinline__ bool within(int first, int last) const {
    return direction == Direction::forward ? row < last : row >= first;
  }

  __device__ __forceinline__ void advance(int group) {
    stage = next(stage);
    if (++group_head < group) return;
    group_head = 0;
    row += direction == Direction::forward ? chunk : -chunk;
    shared_stage = next(shared_stage);
  }

 private:
  static __device__ __forceinline__ int next(int s) { return s + 1 == stages ? 0 : s + 1; }
};

/// Calls `copy(cursor)`, which starts copies, `stages` - 1 steps ahead of `compute(cursor)`. Before the
/// barrier that ends the wait for a step's copies, every warp calls `prepare(cursor)`. By the whole block;
/// ends with no copy in flight.
template <int stages, int chunk, Direction direction, class Copy, class Prepare, class Compute>
__device__ __forceinline__ void for_each_step(int first, int last, int group, Copy copy, Prepare prepare,
                                              Compute compute) {
  using Position = Cursor<stages, chunk, direction>;
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

}  // namespace cottention::tile
