// Counts of valid rows, and the weights of chunks that follow from them.
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

/// Shared memory for count_valid() in every thread.
template <int threads>
struct ValidCountStorage {
  device::BlockSumStorage<int, threads> sum;
  int total;
};

/// The number of unmasked rows among first, ..., last - 1 of a sequence, in thread 0; unspecified elsewhere.
/// Scope: block; barriers inside: 1, without a mask 0. Barriers around other
/// uses of the storage as for device::sum_over_block().
template <int threads>
__device__ __forceinline__ int count_valid(const std::uint8_t* mask, int first, int last,
                                           device::BlockSumStorage<int, threads>& storage_shared) {
  if (mask == nullptr) return last - first;
  int own = 0;
  for (int row = first + device::thread_index(); row < last; row += threads)
    own += device::load_global(mask + row) != 0 ? 1 : 0;
  return device::sum_over_block<threads>(own, storage_shared);
}

/// The number of unmasked rows among first, ..., last - 1 of a sequence, in every thread. Scope: block;
/// barriers inside: 2, without a mask 0. Barriers around other uses
/// of the storage as for device::sum_over_block().
template <int threads>
__device__ __forceinline__ int count_valid(const std::uint8_t* mask, int first, int last,
                                           ValidCountStorage<threads>& storage_shared) {
  if (mask == nullptr) return last - first;
  const int count = count_valid(mask, first, last, storage_shared.sum);
  if (device::thread_index() == 0) device::store_shared(&storage_shared.total, count);
  device::sync_block();  // the total is written
  return device::load_shared(&storage_shared.total);
}

/// The valid-row mask of a chunk: bit r % 32 of word r / 32 tells whether row r exists and is not masked.
/// Every lane has all of it.
template <int chunk>
struct ValidRows {
  static constexpr int words = (chunk + 31) / 32;
  std::uint32_t bits[words];

  /// The mask of rows first, ..., first + chunk - 1 of a sequence. branches: with a branch for chunks that
  /// are whole and not masked, which then take fewer instructions. Scope: warp; barriers inside: 0.
  template <bool branches = false>
  __device__ __forceinline__ static ValidRows load(const std::uint8_t* mask, int first, int length) {
    ValidRows valid;
    if constexpr (branches)
      if (mask == nullptr && length - first >= chunk) {
#pragma unroll
        for (int w = 0; w < words; ++w) valid.bits[w] = low_bits(chunk - 32 * w);
        return valid;
      }
#pragma unroll
    for (int w = 0; w < words; ++w) {
      const int in_chunk = chunk - 32 * w, left = length - first - 32 * w,
                rows = left < in_chunk ? left : in_chunk;
      if (mask == nullptr)
        valid.bits[w] = low_bits(rows);
      else
        valid.bits[w] =
            device::ballot(device::lane_index() < rows &&
                           device::load_global(mask + first + 32 * w + device::lane_index()) != 0);
    }
    return valid;
  }

  __device__ __forceinline__ bool contains(int row) const { return (word_of(row) >> row % 32 & 1) != 0; }

  /// contains(first + further) for `first` a multiple of 8 and further < 8. It takes fewest instructions
  /// where the compiler knows `first`.
  __device__ __forceinline__ bool contains(int first, int further) const {
    return (word_of(first) >> further >> first % 32 & 1) != 0;
  }

  /// Whether all rows of the chunk are valid.
  __device__ __forceinline__ bool all() const {
    bool all = true;
#pragma unroll
    for (int w = 0; w < words; ++w) all = all && bits[w] == low_bits(chunk - 32 * w);
    return all;
  }

  /// The number of valid rows among 0, ..., row. branches: as of load().
  template <bool branches = false>
  __device__ __forceinline__ int up_to(int row) const {
    if constexpr (branches) {
      if (all()) return row + 1;
      row = device::opaque(row);  // or nvcc would count in all chunks
    }
    int count = 0;
#pragma unroll
    for (int w = 0; w < words; ++w) {
      count += device::popc(bits[w] & low_bits(row + 1 - 32 * w));
    }
    return count;
  }

 private:
  /// A word whose lowest `count` bits are set; none where `count` is negative.
  static __device__ __forceinline__ std::uint32_t low_bits(int count) {
    return count >= 32 ? ~0u : count <= 0 ? 0u : (1u << count) - 1;
  }
  __device__ __forceinline__ std::uint32_t word_of(int row) const {
    std::uint32_t word = bits[0];
#pragma unroll
    for (int w = 1; w < words; ++w) word = row >= 32 * w ? bits[w] : word;
    return word;
  }
};

/// The chunks at the start of a walk through a piece that fewer than `min_terms` terms of the same piece come
/// before; the state before the piece does not count. Their outputs may be sums of few terms, whose rounding
/// errors do not average out.
template <int chunk, recurrence::Direction direction>
struct LeadingChunks {
  static constexpr int min_terms = 16;  // docs/tuning.md, "Numbers near the edge"
  static constexpr int no_row = direction == recurrence::Direction::forward ? 0x7fffffff : -0x7fffffff;
  int end;  // first row of the first chunk that is not one; no_row if the walk has fewer than min_terms terms

  /// The leading chunks of a walk through rows first, ..., last - 1 of a sequence. Scope: warp; barriers
  /// inside: 0.
  __device__ __forceinline__ static LeadingChunks find(const std::uint8_t* mask, int first, int last,
                                                       int length) {
    auto at = Cursor<1, chunk, direction>::start(first, last);
    int terms = 0;
#pragma unroll 1
    for (; terms < min_terms && at.within(first, last); at.advance(1))
      terms += ValidRows<chunk>::load(mask, at.row, length).up_to(chunk - 1);
    return {terms < min_terms ? no_row : at.row};
  }
  /// Whether the chunk of row `row` is one of them.
  __device__ __forceinline__ bool contain(int row) const {
    return direction == recurrence::Direction::forward ? row < end : row > end;
  }
  __device__ __forceinline__ bool are_all() const { return end == no_row; }
};

/// Counts and weights at the starts of 32 neighbouring chunks, one for each lane of a warp: 32 lanes compute
/// 32 weights in the time of one. Lies in shared memory. logarithms_alone: what 16-bit elements need
/// follows from these (rough_weight_of(), over_count()).
template <class A, bool logarithms_alone = false>
struct ChunkTable {
  static constexpr int others = logarithms_alone ? 1 : device::warp_size;
  std::int64_t before[others];     // (32) unmasked keys before the chunk, and the initial state's
  A weight[others];                // (32) w at the chunk's first key
  A logarithm[device::warp_size];  // (32) of the count at the chunk's first key: ln, or log2 if it is alone

  /// Fills the table for the 32 chunks from row `first` on. `anchor` is the number of unmasked keys, the
  /// initial state's included, before row `first` or, in reverse, before the end of the 32 chunks. Returns
  /// the anchor for the 32 chunks that are next in `direction`. Scope: warp; barriers inside: 0. A barrier
  /// must be between fill() and reads by other warps, and between such reads and the next fill().
  template <recurrence::Direction direction>
  __device__ __forceinline__ std::int64_t fill(const std::uint8_t* mask, int first, int length, int chunk,
                                               std::int64_t anchor, double exponent) {
    const int lane = device::lane_index();
    const int begin = first + lane * chunk;
    const int rows = begin >= length ? 0 : length - begin < chunk ? length - begin : chunk;
    int own = rows;
    if (mask != nullptr)
      for (int r = 0; r < rows; ++r) own -= device::load_global(mask + begin + r) == 0 ? 1 : 0;
    const device::WarpPrefix chunks = device::prefix_over_warp(own);
    const std::int64_t start = direction == recurrence::Direction::reverse ? anchor - chunks.total : anchor;
    const std::int64_t n = start + chunks.before;
    const double log = log_count(n + 1);
    if constexpr (logarithms_alone) {
      constexpr double log2_e = 1.4426950408889634;
      device::store_shared(logarithm + lane, static_cast<A>(log2_e * log));
    } else {
      device::store_shared(before + lane, n);
      device::store_shared(weight + lane, static_cast<A>(weight_of(log, exponent)));
      device::store_shared(logarithm + lane, static_cast<A>(log));
    }
    return direction == recurrence::Direction::reverse ? start : anchor + chunks.total;
  }
};

}  // namespace cottention::tile
