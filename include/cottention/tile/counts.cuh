// How many keys lie before a chunk, and the weights that follow from that.
#pragma once

#include <cstdint>

#include <cottention/device/barrier.cuh>
#include <cottention/device/collective.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/device/warp.cuh>
#include <cottention/tile/cursor.cuh>
#include <cottention/tile/weights.cuh>

namespace cottention::tile {

/// In shared memory.
template <int threads>
struct ValidCountStorage {
  device::BlockSumStorage<int, threads> sum;
  int total;
};

/// Unmasked rows among first, ..., last - 1 of a sequence, by the whole block, in thread 0; unspecified
/// elsewhere. Uses its storage as device::sum_over_block() does.
template <int threads>
__device__ __forceinline__ int count_valid(const std::uint8_t* mask, int first, int last,
                                           device::BlockSumStorage<int, threads>& storage_shared) {
  if (mask == nullptr) return last - first;
  int own = 0;
  for (int row = first + device::thread_index(); row < last; row += threads)
    own += device::load_global(mask + row) != 0 ? 1 : 0;
  return device::sum_over_block<threads>(own, storage_shared);
}

/// Likewise, in every thread.
template <int threads>
__device__ __forceinline__ int count_valid(const std::uint8_t* mask, int first, int last,
                                           ValidCountStorage<threads>& storage_shared) {
  if (mask == nullptr) return last - first;
  const int count = count_valid(mask, first, last, storage_shared.sum);
  if (device::thread_index() == 0) device::store_shared(&storage_shared.total, count);
  device::sync_block();  // the total is written
  return device::load_shared(&storage_shared.total);
}

/// Which rows of a chunk are valid, one bit each, in every lane of every warp.
template <int chunk>
struct ValidRows {
  static constexpr int words = (chunk + 31) / 32;
  std::uint32_t bits[words];

  __device__ __forceinline__ static ValidRows load(const std::uint8_t* mask, int first, int length) {
    ValidRows valid;
#pragma unroll
    for (int w = 0; w < words; ++w) {
      const int of_chunk = chunk - 32 * w, left = length - first - 32 * w,
                rows = left < of_chunk ? left : of_chunk;
      if (mask == nullptr)
        valid.bits[w] = lowest(rows);
      else
        valid.bits[w] =
            device::ballot(device::lane_index() < rows &&
                           device::load_global(mask + first + 32 * w + device::lane_index()) != 0);
    }
    return valid;
  }

  __device__ __forceinline__ bool contains(int row) const { return (word_of(row) >> row % 32 & 1) != 0; }

  /// Row `first` + further, the first a multiple of 8, further < 8. Cheapest where the compiler knows
  /// `first`.
  __device__ __forceinline__ bool contains(int first, int further) const {
    return (word_of(first) >> further >> first % 32 & 1) != 0;
  }

  /// Whether all are.
  __device__ __forceinline__ bool all() const {
    bool all = true;
#pragma unroll
    for (int w = 0; w < words; ++w) all = all && bits[w] == lowest(chunk - 32 * w);
    return all;
  }

  /// Among rows 0, ..., row.
  __device__ __forceinline__ int up_to(int row) const {
    int count = 0;
#pragma unroll
    for (int w = 0; w < words; ++w) {
      count += device::popc(bits[w] & lowest(row + 1 - 32 * w));
    }
    return count;
  }

 private:
  /// `count` bits, none where that is negative.
  static __device__ __forceinline__ std::uint32_t lowest(int count) {
    return count >= 32 ? ~0u : count <= 0 ? 0u : (1u << count) - 1;
  }
  __device__ __forceinline__ std::uint32_t word_of(int row) const {
    std::uint32_t word = bits[0];
#pragma unroll
    for (int w = 1; w < words; ++w) word = row >= 32 * w ? bits[w] : word;
    return word;
  }
};

/// The chunks that a walk begins with, up to the first that at least `few` terms come before.
template <int chunk, Direction direction>
struct LeadingChunks {
  static constexpr int few = 16;
  static constexpr int nowhere = direction == Direction::forward ? 0x7fffffff : -0x7fffffff;
  int end;  // where the first other chunk starts, or would; `nowhere` if the walk has fewer terms in all

  /// Of a walk through rows first, ..., last - 1 of a sequence. By whole warps.
  __device__ __forceinline__ static LeadingChunks find(const std::uint8_t* mask, int first, int last,
                                                       int length) {
    auto at = Cursor<1, chunk, direction>::start(first, last);
    int terms = 0;
#pragma unroll 1
    for (; terms < few && at.within(first, last); at.advance(1))
      terms += ValidRows<chunk>::load(mask, at.row, length).up_to(chunk - 1);
    return {terms < few ? nowhere : at.row};
  }
  __device__ __forceinline__ bool contain(int row) const {
    return direction == Direction::forward ? row < end : row > end;
  }
  __device__ __forceinline__ bool are_all() const { return end == nowhere; }
};

/// Counts and weights at the starts of 32 neighbouring chunks: 32 at a time, because a weight takes one lane
/// about as long as a whole warp.
template <class A>
struct ChunkTable {
  std::int64_t before[device::warp_size];  // unmasked keys before the chunk, the initial state's included
  A weight[device::warp_size];             // at the chunk's first key
  A logarithm[device::warp_size];          // of the count there

  /// By one warp. Row `first` starts the first of the 32 chunks. `anchor` counts the keys before it, or, in
  /// reverse, those before the row where the 32 end. Returns the anchor of the 32 that are next.
  template <Direction direction>
  __device__ __forceinline__ std::int64_t fill(const std::uint8_t* mask, int first, int length, int chunk,
                                               std::int64_t anchor, double exponent) {
    const int lane = device::lane_index();
    const int begin = first + lane * chunk;
    const int rows = begin >= length ? 0 : length - begin < chunk ? length - begin : chunk;
    int own = rows;
    if (mask != nullptr)
      for (int r = 0; r < rows; ++r) own -= device::load_global(mask + begin + r) == 0 ? 1 : 0;
    const device::WarpPrefix chunks = device::prefix_over_warp(own);
    const std::int64_t start = direction == Direction::reverse ? anchor - chunks.total : anchor;
    const std::int64_t n = start + chunks.before;
    const double log = log_count(n + 1);
    device::store_shared(before + lane, n);
    device::store_shared(weight + lane, static_cast<A>(weight_of(log, exponent)));
    device::store_shared(logarithm + lane, static_cast<A>(log));
    return direction == Direction::reverse ? start : anchor + chunks.total;
  }
};

}  // namespace cottention::tile
