// Which thread of which block is running.
#pragma once

#include <cuda_runtime.h>

namespace cottention::device {

inline constexpr int warp_size = 32;

/// Index in the block; blocks have one dimension.
__device__ __forceinline__ int thread_index() { return static_cast<int>(threadIdx.x); }
__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x % warp_size); }
__device__ __forceinline__ int warp_index() { return static_cast<int>(threadIdx.x / warp_size); }

/// x, which nvcc's optimiser then takes for a number that it has not seen before: what is computed from it is
/// not moved out of loops, where it would hold registers. ptxas sees a copy there, and keeps what was
/// computed apart: docs/tuning.md has the counts.
__device__ __forceinline__ int opaque(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

/// Index of the block in each direction of the grid.
__device__ __forceinline__ int block_x() { return static_cast<int>(blockIdx.x); }
__device__ __forceinline__ int block_y() { return static_cast<int>(blockIdx.y); }
__device__ __forceinline__ int block_z() { return static_cast<int>(blockIdx.z); }

}  // namespace cottention::device
