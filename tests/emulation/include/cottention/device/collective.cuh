// What the threads of a block or warp find together, in the order that the shipped header gives. Where it
// leaves a result unspecified, that is one which no kernel expects.
#pragma once

#include <concepts>
#include <cstdint>
#include <limits>

#include <cuda_runtime.h>

#include <cottention/device/barrier.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/device/warp.cuh>

namespace cottention::device {

template <class T, int threads>
struct BlockSumStorage {
  static_assert(threads % warp_size == 0);
  T of_warp[threads / warp_size];
};

template <int threads, class T>
[[gnu::always_inline]] inline T sum_over_block(T x, BlockSumStorage<T, threads>& storage_shared,
                                               emulation::Where where = emulation::Where::current()) {
  static_assert(std::same_as<T, int> || std::same_as<T, double>);
  for (int distance = 1; distance < warp_size; distance *= 2) {
    const T above = device::shuffle(x, lane_index() + distance, where);
    if (lane_index() + distance < warp_size) x += above;
  }
  if (lane_index() == 0) device::store_shared(storage_shared.of_warp + warp_index(), x, where);
  device::sync_block(where);
  if (thread_index() != 0) return std::same_as<T, int> ? T(-0x5a5a5a5a) : std::numeric_limits<T>::quiet_NaN();
  for (int w = 1; w < threads / warp_size; ++w) x += device::load_shared(storage_shared.of_warp + w, where);
  return x;
}

struct WarpPrefix {
  int before;
  int total;
};
inline WarpPrefix prefix_over_warp(int x, emulation::Where where = emulation::Where::current()) {
  int up_to_here = x;
  for (int distance = 1; distance < warp_size; distance *= 2) {
    const int below = device::shuffle(up_to_here, lane_index() - distance, where);
    if (lane_index() >= distance) up_to_here += below;
  }
  return {up_to_here - x, device::shuffle(up_to_here, warp_size - 1, where)};
}

}  // namespace cottention::device
