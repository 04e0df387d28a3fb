// Barriers in shared memory, on which threads and copies of tiles arrive. PTX ISA: mbarrier (sm_90).
//
// A barrier goes through phases. One ends when as many threads have arrived as it was initialised for and all
// bytes that they expect have landed; the next one starts at once. Phases have parity 0, 1, 0, ... in turn.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

namespace cottention::device {

/// In shared memory; its bits are the hardware's.
struct alignas(8) Mbarrier {
  std::uint64_t bits;
};

/// By one thread; others use it after fence_mbarrier_init and a barrier of the block. PTX ISA: mbarrier.init.
__device__ __forceinline__ void mbarrier_init(Mbarrier* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(barrier))),
               "r"(arrivals)
               : "memory");
}

/// Makes this thread's initialisations visible to the copies of tiles. PTX ISA: fence.mbarrier_init.
__device__ __forceinline__ void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/// What this thread did before is visible to those that wait for the phase. PTX ISA: mbarrier.arrive.
__device__ __forceinline__ void mbarrier_arrive(Mbarrier* barrier) {
  asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(barrier)))
               : "memory");
}

/// Arrives, and lets the phase wait for `bytes` more bytes, up to 2^20 - 1 in all. PTX ISA:
/// mbarrier.arrive.expect_tx.
__device__ __forceinline__ void mbarrier_arrive_expect_tx(Mbarrier* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(barrier))),
               "r"(bytes)
               : "memory");
}

/// Waits for the end of the current phase if that has this parity; of a fresh barrier the phase before the
/// first, of parity 1, counts as ended. PTX ISA: mbarrier.try_wait.parity, until it succeeds.
__device__ __forceinline__ void mbarrier_wait(Mbarrier* barrier, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred ended;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 ended, [%0], %1;\n"
      "@!ended bra again;\n"
      "}" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(barrier))),
      "r"(parity)
      : "memory");
}

}  // namespace cottention::device
