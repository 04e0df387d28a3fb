// Barriers in shared memory, on which threads and the copies of tma.cuh arrive. PTX ISA: mbarrier (sm_90).
// All functions are of one thread.
//
// A barrier goes through phases. A phase ends when as many threads have arrived as the barrier was
// initialised for and all bytes that they expect have been copied; the next phase starts at once. The
// parities of successive phases are 0, 1, 0, ...
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

namespace cottention::device {

/// Lies in shared memory; only the functions below read or write its bits.
struct alignas(8) Mbarrier {
  std::uint64_t bits;
};

/// Initialises a barrier for `arrivals` arrivals a phase. One thread calls this, then fence_mbarrier_init();
/// other threads use the barrier after a sync_block(). PTX ISA: mbarrier.init.
__device__ __forceinline__ void mbarrier_init(Mbarrier* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(barrier))),
               "r"(arrivals)
               : "memory");
}

/// Makes this thread's initialisations visible to the copies of tma.cuh. PTX ISA: fence.mbarrier_init.
__device__ __forceinline__ void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/// Arrives. What this thread did before is visible to threads after they have waited for the phase. PTX ISA:
/// mbarrier.arrive.
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

/// Waits for the end of the current phase if that has this parity; otherwise the phase of this parity has
/// ended and the thread goes on. On a barrier that was just initialised a wait for parity 1 therefore returns
/// at once. PTX ISA: mbarrier.try_wait.parity, until it succeeds.
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
