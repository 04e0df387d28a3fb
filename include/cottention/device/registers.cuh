// Registers that change hands between the warpgroups of a block. PTX ISA: setmaxnreg (sm_90a).
#pragma once

#include <cuda_runtime.h>

namespace cottention::device {

/// Keeps `registers` a thread and leaves the rest to others. All warps of the warpgroup must come here. PTX
/// ISA: setmaxnreg.dec.
template <int registers>
__device__ __forceinline__ void setmaxnreg_dec() {
  static_assert(registers >= 24 && registers <= 256 && registers % 8 == 0);
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers) : "memory");
}

/// Waits until `registers` a thread are free, and takes them. All warps of the warpgroup must come here. PTX
/// ISA: setmaxnreg.inc.
template <int registers>
__device__ __forceinline__ void setmaxnreg_inc() {
  static_assert(registers >= 24 && registers <= 256 && registers % 8 == 0);
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers) : "memory");
}

}  // namespace cottention::device
