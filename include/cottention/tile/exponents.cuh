// Powers of two that keep operands in half's range.
#pragma once

#include <cottention/device/math.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/tile/over_warp.cuh>

namespace cottention::tile {

/// The e for which 2^-e times `largest` is in [2^14, 2^15), near the end of half's range, 65,504; 0
/// where `largest` is below 2^-100 or not finite.
__device__ __forceinline__ int exponent_for_half(float largest) {
  if (!device::is_finite(largest) || largest < 0x1p-100f) return 0;
  return device::exponent_of(largest) - 14;
}

/// The exponent of a chunk's largest factor; 0 where that is 0 or not finite. Scope: warp; no barrier inside.
template <int chunk, class A>
__device__ __forceinline__ int exponent_of_factors(const A* factors_shared) {
  A largest{};
  for (int r = device::lane_index(); r < chunk; r += device::warp_size) {
    const A x = device::magnitude(device::load_shared(factors_shared + r));
    largest = x > largest ? x : largest;
  }
  largest = max_over_warp(largest);
  return largest > A{0} && device::is_finite(largest) ? device::exponent_of(largest) : 0;
}

}  // namespace cottention::tile
