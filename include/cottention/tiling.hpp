// How it is computed: chunk sizes and hardware. A Tiling changes only the speed.
#pragma once

namespace cottention {

enum class Arch { cpu, sm_80, sm_90a, sm_100 };

/// How a kernel cuts its work up. Structural, so that it is legal as a template value.
struct Tiling {
  int chunk;       ///< tokens handled together: scores are computed within a chunk, the state between chunks
  int warps = 0;   ///< warps of a thread block; unused by the CPU backend
  int stages = 0;  ///< chunks in flight between memory and compute; unused by the CPU backend
  Arch arch = Arch::cpu;
  friend constexpr bool operator==(Tiling, Tiling) = default;
};

}  // namespace cottention
