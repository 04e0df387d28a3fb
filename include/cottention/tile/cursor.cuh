// The order in which the chunks of a sequence are worked on.
#pragma once

#include <cuda_runtime.h>

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

}  // namespace cottention::tile
