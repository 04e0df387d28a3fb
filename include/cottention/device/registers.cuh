// Moving registers from one warpgroup of a block to another. PTX ISA: setmaxnreg (sm_90a). Scope of both
// functions: warpgroup; barriers inside: 0.
#pragma once

#include <cuda_runtime.h>

namespace cottention::device {

/// Keeps `registers` a thread and frees the others of the warpgroup. PTX ISA: setmaxnreg.dec.
template <int registers>
__device__ __forceinline__ void setmaxnreg_dec() {
  static_assert(registers >= 24 && registers <= 256 && registers % 8 == 0);
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers) : "memory");
}

/// Waits until the block has freed enough registers for `registers` a thread, and takes them. PTX ISA:
/// setmaxnreg.inc.
template <int registers>
__device__ __forceinline__ void setmaxnreg_inc() {
  static_assert(registers >= 24 && registers <= 256 && registers % 8 == 0);
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers) : "memory");
}

}  // namespace cottention::device
