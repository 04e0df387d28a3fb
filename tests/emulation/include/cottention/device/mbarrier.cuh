// Barriers in shared memory, on which threads and copies of tiles arrive.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

namespace cottention::device {

struct alignas(8) Mbarrier {
  std::uint64_t bits;
};

[[gnu::always_inline]] inline void mbarrier_init(Mbarrier* barrier, int arrivals,
                                                 emulation::Where where = emulation::Where::current()) {
  emulation::mbarrier_init(barrier, arrivals, where);
}

inline void fence_mbarrier_init(emulation::Where where = emulation::Where::current()) {
  emulation::fence_mbarrier_init(where);
}

[[gnu::always_inline]] inline void mbarrier_arrive(Mbarrier* barrier,
                                                   emulation::Where where = emulation::Where::current()) {
  emulation::mbarrier_arrive(barrier, where);
}

[[gnu::always_inline]] inline void mbarrier_arrive_expect_tx(
    Mbarrier* barrier, int bytes, emulation::Where where = emulation::Where::current()) {
  emulation::mbarrier_arrive_expect_tx(barrier, bytes, where);
}

[[gnu::always_inline]] inline void mbarrier_wait(Mbarrier* barrier, int parity,
                                                 emulation::Where where = emulation::Where::current()) {
  emulation::mbarrier_wait(barrier, parity, where);
}

}  // namespace cottention::device
