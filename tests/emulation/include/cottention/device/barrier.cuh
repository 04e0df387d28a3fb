// Barriers among the warps of a block.
#pragma once

#include <cuda_runtime.h>

namespace cottention::device {

inline void sync_block(emulation::Where where = emulation::Where::current()) { emulation::sync_block(where); }

inline void sync_threads(int id, int threads, emulation::Where where = emulation::Where::current()) {
  emulation::sync_threads(id, threads, where);
}

inline void arrive_threads(int id, int threads, emulation::Where where = emulation::Where::current()) {
  emulation::arrive_threads(id, threads, where);
}

}  // namespace cottention::device
