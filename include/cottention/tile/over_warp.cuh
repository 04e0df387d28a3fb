// One number of all lanes of a warp, the same in each; always taken in the same order.
#pragma once

#include <cstdint>

#include <cottention/device/convert.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/device/warp.cuh>

namespace cottention::tile {

template <class A>
__device__ __forceinline__ A sum_over_warp(A x) {
#pragma unroll
  for (int distance = 1; distance < device::warp_size; distance *= 2) x += device::shuffle_xor(x, distance);
  return x;
}

/// Of numbers that are 0 or positive.
template <class A>
__device__ __forceinline__ A max_over_warp(A x) {
  if constexpr (sizeof(A) == 4) {  // their bits are in the same order
    return device::bits_as<A>(device::redux_max(device::bits_as<std::uint32_t>(x)));
  } else {
#pragma unroll
    for (int distance = 1; distance < device::warp_size; distance *= 2) {
      const A other = device::shuffle_xor(x, distance);
      x = other > x ? other : x;
    }
    return x;
  }
}

}  // namespace cottention::tile
