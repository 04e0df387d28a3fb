// What the threads of a block or warp find together. All of them must take part, converged. Orders of sums
// are fixed: equal operands give equal bits.
#pragma once

#include <concepts>

#include <cottention/device/barrier.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/device/warp.cuh>

namespace cottention::device {
namespace detail {

/// The sum over a warp, in every lane.
__device__ __forceinline__ int sum_of_lanes(int x) {
  int sum;  // PTX ISA: redux.sync.add.s32 (sm_80)
  asm volatile("redux.sync.add.s32 %0, %1, %2;" : "=r"(sum) : "r"(x), "n"(all_lanes));
  return sum;
}
__device__ __forceinline__ double sum_of_lanes(double x) {
#pragma unroll
  for (int distance = 1; distance < warp_size; distance *= 2) x += shuffle_xor(x, distance);
  return x;
}

}  // namespace detail

/// What sum_over_block() needs of shared memory.
template <class T, int threads>
struct BlockSumStorage {
  static_assert(threads % warp_size == 0);
  T of_warp[threads / warp_size];
};

/// The sum over a block of `threads` threads, in thread 0; unspecified elsewhere. T is int or double. Each
/// warp adds neighbouring lanes, then neighbouring pairs, fours, eights and sixteens; thread 0 adds the sums
/// of the warps, from the first to the last. There is one barrier within; another one must be between it and
/// what else uses the storage, before and after.
template <int threads, class T>
__device__ __forceinline__ T sum_over_block(T x, BlockSumStorage<T, threads>& storage_shared) {
  static_assert(std::same_as<T, int> || std::same_as<T, double>);
  T sum = detail::sum_of_lanes(x);
  if (lane_index() == 0) store_shared(storage_shared.of_warp + warp_index(), sum);
  sync_block();  // the warps' sums are written
  if (thread_index() == 0) {
#pragma unroll
    for (int w = 1; w < threads / warp_size; ++w) sum += load_shared(storage_shared.of_warp + w);
  }
  return sum;
}

/// Sums over the lanes of a warp.
struct WarpPrefix {
  int before;  // over the lanes below one's own
  int total;   // over all lanes; the same in each
};
__device__ __forceinline__ WarpPrefix prefix_over_warp(int x) {
  int up_to_here = x;
#pragma unroll
  for (int distance = 1; distance < warp_size; distance *= 2) {
    const int below = __shfl_up_sync(all_lanes, up_to_here, distance);
    if (lane_index() >= distance) up_to_here += below;
  }
  return {up_to_here - x, shuffle(up_to_here, warp_size - 1)};
}

}  // namespace cottention::device
