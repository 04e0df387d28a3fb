// One number of all lanes of a warp, the same in each; always taken in the same order.
#pragma once

#include <cottention/device/thread.cuh>
#include <cottention/device/warp.cuh>

namespace cottention::tile {

template <class A>
__device__ __forceinline__ A sum_over_warp(A x) {
#pragma unroll
  for (int distance = 1; distance < device::warp_size; distance *= 2) x += device::shuffle_xor(x, distance);
  return x;
}

template <class A>
__device__ __forceinline__ A largest_over_warp(A x) {
#pragma unroll
  for (int distance = 1; distance < device::warp_size; distance *= 2) {
    const A other = device::shuffle_xor(x, distance);
    x = other > x ? other : x;
  }
  return x;
}

}  // namespace cottention::tile
