// Barriers in shared memory, on which threads and copies of tiles arrive.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

namespace cottention::device {

struct alignas(8) Mbarrier {
  std::uint64_t bits;
};

[[gnu::always_inline]] inline void init_mbarrier(Mbarrier* barrier, int arrivals,
                                                 emulation::Where where = emulation::Where::current()) {
  emulation::init_mbarrier(barrier, arrivals, where);
}

inline void fence_mbarrier_init(emulation::Where where = emulation::Where::current()) {
  emulation::fence_mbarrier_init(where);
}

[[gnu::always_inline]] inline void arrive_mbarrier(Mbarrier* barrier,
                                                   emulation::Where where = emulation::Where::current()) {
  emulation::arrive_mbarrier(barrier, where);
}

[[gnu::always_inline]] inline void arrive_expecting(Mbarrier* barrier, int bytes,
                                                    emulation::Where where = emulation::Where::current()) {
  emulation::arrive_expecting(barrier, bytes, where);
}

[[gnu::always_inline]] inline void wait_mbarrier(Mbarrier* barrier, int parity,
                                                 emulation::Where where = emulation::Where::current()) {
  emulation::wait_mbarrier(barrier, parity, where);
}

}  // namespace cottention::device
