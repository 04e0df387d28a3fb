// Copies from global to shared memory that run beside the thread that issues them. PTX ISA: cp.async (sm_80).
#pragma once

#include <cuda_runtime.h>

namespace cottention::device {

/// Copies the first `bytes`, 0 to 16, of 16 bytes and fills the rest with zeros. Both addresses are aligned
/// to 16; with 0 bytes the source is not read, but must still be a valid address. Bypasses the first-level
/// cache. PTX ISA: cp.async.cg.shared.global with src-size.
__device__ __forceinline__ void cp_async_16(void* to_shared, const void* from_global, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(to_shared))),
               "l"(__cvta_generic_to_global(from_global)), "r"(bytes)
               : "memory");
}

/// Closes the group of copies that this thread has issued since the last one. PTX ISA: cp.async.commit_group.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until at most `groups` of this thread's latest groups are in flight. What has landed is visible to
/// this thread only, until a barrier. PTX ISA: cp.async.wait_group.
template <int groups>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

}  // namespace cottention::device
