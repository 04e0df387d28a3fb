// Reductions over a warp whose result every lane gets. Scope of all functions: warp; barriers inside: 0. The
// order of a sum is fixed: equal operands give equal bits.
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

/// The largest of numbers that are 0 or positive, none of them NaN.
template <class A>
__device__ __forceinline__ A max_over_warp(A x) {
  if constexpr (sizeof(A) == 4) {  // the bits of such numbers have the order of the numbers
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
