// Copies from global to shared memory that run beside the thread that issues them.
#pragma once

#include <cuda_runtime.h>

namespace cottention::device {

[[gnu::always_inline]] inline void cp_async_16(void* to_shared, const void* from_global, int bytes,
                                               emulation::Where where = emulation::Where::current()) {
  emulation::cp_async_16(to_shared, from_global, bytes, where);
}

inline void cp_async_commit(emulation::Where where = emulation::Where::current()) {
  emulation::cp_async_commit(where);
}

template <int groups>
void cp_async_wait(emulation::Where where = emulation::Where::current()) {
  emulation::cp_async_wait(groups, where);
}

}  // namespace cottention::device
