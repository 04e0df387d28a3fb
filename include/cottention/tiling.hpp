// How it is computed: chunk sizes and shares of the hardware. A Tiling changes only the speed.
#pragma once

#include <cottention/requirements.hpp>

namespace cottention {

/// Which kernels run, by the instructions that they multiply matrices with; as a number, the compute
/// capability from which on they do.
enum class Engine {
  mma_sync = 80,  ///< mma.sync and cp.async: every element type
  wgmma = 90,  ///< wgmma and TMA, of code for sm_90a alone: 16-bit elements (docs/tuning.md says which calls)
};

/// How a kernel cuts its work up. Structural, so that it is legal as a template value. The CPU backend uses
/// `chunk` alone.
struct Tiling {
  int chunk = 0;    ///< tokens handled together: scores are computed within a chunk, the state between chunks
  int warps = 0;    ///< warps of a thread block; Engine::wgmma: 0, or as many as its kernels have
  int stages = 0;   ///< chunks in flight between memory and compute, the one computed on included
  int columns = 0;  ///< columns of v and o that one thread block handles; the grid covers the rest
  int min_blocks_per_sm = 1;         ///< thread blocks that registers must leave room for on a multiprocessor
  Engine engine = Engine::mma_sync;  ///< on GPUs
  friend constexpr bool operator==(Tiling, Tiling) = default;
};

}  // namespace cottention
