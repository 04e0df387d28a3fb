// Barriers among the warps of a block.
#pragma once

#include <cuda_runtime.h>

namespace cottention::device {

inline void sync_block(emulation::Where where = emulation::Where::current()) { emulation::sync_block(where); }

inline void bar_sync(int id, int threads, emulation::Where where = emulation::Where::current()) {
  emulation::bar_sync(id, threads, where);
}

inline void bar_arrive(int id, int threads, emulation::Where where = emulation::Where::current()) {
  emulation::bar_arrive(id, threads, where);
}

inline bool bar_red_or(int id, int threads, bool predicate,
                       emulation::Where where = emulation::Where::current()) {
  return emulation::bar_red_or(id, threads, predicate, where);
}

}  // namespace cottention::device
