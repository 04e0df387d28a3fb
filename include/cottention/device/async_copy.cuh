// Asynchronous copies from global to shared memory: the thread that issues one goes on meanwhile. PTX ISA:
// cp.async (sm_80). All functions are of one thread.
#pragma once

#include <cuda_runtime.h>

namespace cottention::device {

/// Copies the first `bytes`, 0 to 16, of 16 bytes and fills the rest of the 16 with zeros. Both addresses are
/// aligned to 16; with 0 bytes the source is not read, but must still be a valid address. The copy bypasses
/// the first-level cache. PTX ISA: cp.async.cg.shared.global with src-size.
__device__ __forceinline__ void cp_async_16(void* to_shared, const void* from_global, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(to_shared))),
               "l"(__cvta_generic_to_global(from_global)), "r"(bytes)
               : "memory");
}

/// Makes a group of the copies that this thread has issued since its last group. PTX ISA:
/// cp.async.commit_group.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until at most `groups` of this thread's latest groups are in flight. What the other groups have
/// copied is visible to this thread; other threads see it after a barrier. PTX ISA: cp.async.wait_group.
template <int groups>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

}  // namespace cottention::device
