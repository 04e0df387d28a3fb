// Barriers among the warps of a block. PTX ISA: bar, barrier.
//
// The doc comment of a function that a warp or a block calls together ends with a line of one form:
//
//     Scope: block; barriers inside: 1.
//
// Scope says which threads must all call it with the same arguments but for their own rows, columns or
// registers; warps are converged. Barriers are calls of sync_block(): a thread that writes shared memory
// before the last of them has written it for all threads when the function returns. What must be between the
// call and its neighbours follows in a sentence. A function without such a line is of one thread.
#pragma once

#include <cuda_runtime.h>

namespace cottention::device {

/// Waits for all threads of the block: what each wrote to shared or global memory before is visible to the
/// others after. Scope: block; this is barrier 0. PTX ISA: bar.sync 0.
__device__ __forceinline__ void sync_block() { __syncthreads(); }

/// Waits until `threads` threads, a multiple of 32, have come to barrier `id`, 1 to 15; barrier 0 is that of
/// sync_block(). Scope: warp. PTX ISA: bar.sync.
__device__ __forceinline__ void bar_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/// Counts the warp as come to barrier `id` without waiting there. Scope: warp. PTX ISA: bar.arrive.
__device__ __forceinline__ void bar_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/// bar_sync(), and whether `predicate` holds in any of the threads. Those that meet must all call this.
/// Scope: warp. PTX ISA: bar.red.or.pred.
__device__ __forceinline__ bool bar_red_or(int id, int threads, bool predicate) {
  int any;
  asm volatile(
      "{\n"
      ".reg .pred own, of_any;\n"
      "setp.ne.s32 own, %3, 0;\n"
      "bar.red.or.pred of_any, %1, %2, own;\n"
      "selp.s32 %0, 1, 0, of_any;\n"
      "}"
      : "=r"(any)
      : "r"(id), "r"(threads), "r"(predicate ? 1 : 0)
      : "memory");
  return any != 0;
}

}  // namespace cottention::device
