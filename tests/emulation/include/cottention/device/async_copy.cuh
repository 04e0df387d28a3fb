// Copies from global to shared memory that run beside the thread that issues them.
#pragma once

#include <cuda_runtime.h>

namespace cottention::device {

[[gnu::always_inline]] inline void copy_async_16(void* to_shared, const void* from_global, int bytes,
                                                 emulation::Where where = emulation::Where::current()) {
  emulation::copy_async_16(to_shared, from_global, bytes, where);
}

inline void commit_copies(emulation::Where where = emulation::Where::current()) {
  emulation::commit_copies(where);
}

template <int groups>
void wait_copies(emulation::Where where = emulation::Where::current()) {
  emulation::wait_copies(groups, where);
}

}  // namespace cottention::device
