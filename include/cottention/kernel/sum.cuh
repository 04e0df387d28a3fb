// Sums of arrays, element by element.
#pragma once

#include <concepts>
#include <cstdint>
#include <type_traits>

#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>

namespace cottention::kernel {

/// to[e] = the sum of all terms' elements e, one after the other; floats are added in double and rounded
/// once. `to` may be one of the terms. Blocks: x = any number.
template <class X>
struct ArraySum {
  static constexpr int threads = 128;
  static constexpr int min_blocks_per_sm = 1;

  /// `count` terms, `stride` elements from each other.
  struct Run {
    const X* first = nullptr;
    std::int64_t count = 0, stride = 0;
  };
  struct Params {
    static constexpr int max_runs = 4;
    Run runs[max_runs];
    int count = 0;  ///< of runs
    X* to = nullptr;
    std::int64_t elements = 0;
    std::int64_t blocks = 1;  ///< of the launch
  };
  struct Storage {};

  /// Blocks for so many elements: each has several where that would be more than a grid has.
  static std::int64_t blocks(std::int64_t elements) {
    constexpr std::int64_t most = std::int64_t{1} << 20;
    const std::int64_t wanted = (elements + threads - 1) / threads;
    return wanted < most ? wanted : most;
  }

  static __device__ __forceinline__ void run(const Params& params, Storage&) {
    using Total = std::conditional_t<std::same_as<X, float>, double, X>;
    for (std::int64_t e = std::int64_t{device::block_x()} * threads + device::thread_index();
         e < params.elements; e += params.blocks * threads) {
      Total total = 0;
#pragma unroll
      for (int i = 0; i < Params::max_runs; ++i) {
        if (i >= params.count) break;
        const Run& run = params.runs[i];
#pragma unroll 4
        for (std::int64_t n = 0; n < run.count; ++n)
          total += static_cast<Total>(device::load_global(run.first + n * run.stride + e));
      }
      device::store_global(params.to + e, static_cast<X>(total));
    }
  }
};

}  // namespace cottention::kernel
