// Barriers among the warps of a block. PTX ISA: bar, barrier.
#pragma once

#include <cuda_runtime.h>

namespace cottention::device {

/// All threads of the block.
__device__ __forceinline__ void sync_block() { __syncthreads(); }

/// `threads` threads, a multiple of 32, meet at barrier `id`, 1 to 15; sync_block owns barrier 0.
__device__ __forceinline__ void bar_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/// Counts towards barrier `id` without waiting.
__device__ __forceinline__ void bar_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace cottention::device
