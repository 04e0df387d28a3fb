// Which thread of which block is running.
#pragma once

#include <cuda_runtime.h>

namespace cottention::device {

inline constexpr int warp_size = 32;

inline int thread_index() { return emulation::position.thread; }
inline int lane_index() { return emulation::position.thread % warp_size; }
inline int warp_index() { return emulation::position.thread / warp_size; }

inline int opaque(int x) { return x; }

inline int block_x() { return emulation::position.block_x; }
inline int block_y() { return emulation::position.block_y; }
inline int block_z() { return emulation::position.block_z; }

}  // namespace cottention::device
