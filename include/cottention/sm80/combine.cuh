// Sums of the warps that share columns, added up.
#pragma once

#include <cottention/device/barrier.cuh>
#include <cottention/sm80/partition.cuh>

namespace cottention::sm80 {

/// Shared memory for combine(); nearly none where it has nothing to do.
template <class Part>
struct PartialOutput {
  static constexpr bool adds_up = Part::warps_k > 1 && !Part::splits_m;
  static constexpr int elements = Part::warp_row_blocks * Part::warp_column_blocks * 8;  // of a lane
  static constexpr int partials_per_head = adds_up ? Part::warps * elements * device::warp_size : 1;
  alignas(16) typename Part::A sums[partials_per_head];
};

/// Leaves the total with the warps whose warp_k is 0, added in the order of the warps. By the whole
/// block.
template <class Part>
__device__ __forceinline__ void combine(typename Part::Output& out, PartialOutput<Part>& partial) {
  if constexpr (PartialOutput<Part>::adds_up) {
    constexpr int elements = PartialOutput<Part>::elements;
    const auto place = [&partial](int warp, int element) {
      return partial.sums + (warp * elements + element) * device::warp_size + device::lane_index();
    };
    const auto for_each = [&out](auto f) {
#pragma unroll
      for (int i = 0; i < Part::warp_row_blocks; ++i)
#pragma unroll
        for (int m = 0; m < Part::warp_column_blocks; ++m)
#pragma unroll
          for (int e = 0; e < 8; ++e)
            f(out.sums[i][m][e / 4].values[e % 4], (i * Part::warp_column_blocks + m) * 8 + e);
    };
    if (Part::warp_k() > 0)
      for_each(
          [&](auto& sum, int element) { device::store_shared(place(device::warp_index(), element), sum); });
    device::sync_block();  // the other warps' parts are written
    if (Part::warp_k() == 0)
      for (int deep = 1; deep < Part::warps_k; ++deep)
        for_each([&](auto& sum, int element) {
          sum += device::load_shared(place(device::warp_index() + deep * Part::warps_n, element));
        });
  }
}

}  // namespace cottention::sm80
