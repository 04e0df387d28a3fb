// The indices of the running thread, and opaque().
#pragma once

#include <cuda_runtime.h>

namespace cottention::device {

inline constexpr int warp_size = 32;

/// Index in the block; blocks have one dimension.
__device__ __forceinline__ int thread_index() { return static_cast<int>(threadIdx.x); }
__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x % warp_size); }
__device__ __forceinline__ int warp_index() { return static_cast<int>(threadIdx.x / warp_size); }

/// x, behind an optimisation barrier: nvcc's optimiser knows nothing of the result, and so neither moves what
/// is computed from it out of a loop nor shares it with the same computation elsewhere. Kernels use it on
/// indices of threads, warps and blocks from which addresses follow, a great many in a chunk: computed once
/// for all chunks, these addresses would hold registers, and lanes would spill. It costs no instruction but
/// those that compute the addresses again; docs/tuning.md has the counts.
__device__ __forceinline__ int opaque(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

/// Index of the block in each direction of the grid.
__device__ __forceinline__ int block_x() { return static_cast<int>(blockIdx.x); }
__device__ __forceinline__ int block_y() { return static_cast<int>(blockIdx.y); }
__device__ __forceinline__ int block_z() { return static_cast<int>(blockIdx.z); }

}  // namespace cottention::device
