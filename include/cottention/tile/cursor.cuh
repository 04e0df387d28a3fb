// The order in which the chunks of a sequence are worked on.
#pragma once

#include <cuda_runtime.h>

#include <cottention/recurrence.hpp>

namespace cottention::tile {

/// A position in the order of work: chunk by chunk, and in each chunk one query head of the group after the
/// other.
template <int stages, int chunk, recurrence::Direction direction>
struct Cursor {
  int row;               // first of the chunk
  int group_head = 0;    // query head of the group
  int stage = 0;         // pipeline stage, the buffer of the query head's rows
  int shared_stage = 0;  // buffer of the rows that all query heads of the group share

  /// The first position of a walk through rows first, ..., last - 1. Chunks start at row `first`, so that the
  /// last one may be short.
  static __device__ __forceinline__ Cursor start(int first, int last) {
    if (direction == recurrence::Direction::forward) return {first};
    return {last <= first ? first - 1 : first + (last - 1 - first) / chunk * chunk};
  }
  /// Whether the walk through rows first, ..., last - 1 has not ended.
  __device__ __forceinline__ bool within(int first, int last) const {
    return direction == recurrence::Direction::forward ? row < last : row >= first;
  }

  /// Moves to the next query head of `group`, or to the next chunk's first one.
  __device__ __forceinline__ void advance(int group) {
    stage = next(stage);
    if (++group_head < group) return;
    group_head = 0;
    row += direction == recurrence::Direction::forward ? chunk : -chunk;
    shared_stage = next(shared_stage);
  }

 private:
  static __device__ __forceinline__ int next(int s) { return s + 1 == stages ? 0 : s + 1; }
};

}  // namespace cottention::tile
