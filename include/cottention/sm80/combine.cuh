// The reduction of split-K: partial outputs of the warps that share columns are added.
#pragma once

#include <cottention/device/barrier.cuh>
#include <cottention/sm80/output.cuh>

namespace cottention::sm80 {

/// Shared memory for combine(): one element unless the Partition splits K.
template <class Part>
struct PartialOutput {
  static constexpr bool splits_k = Part::warps_k > 1 && !Part::splits_m;
  static constexpr int elements = Part::warp_row_blocks * Part::warp_column_blocks * 8;  // of a lane
  static constexpr int size = splits_k ? Part::warps * elements * device::warp_size : 1;
  alignas(16) typename Part::A sums[size];  // (warps, elements, lanes)
};

/// out of the warps with warp_k 0 becomes the sum of the partial outputs (chunk, warp_columns) of the warps
/// that share its columns, added in the order of warp_k. Scope: block; barriers inside: 1 where the Partition
/// splits K, else 0. A barrier must be between it and the next combine() with the same storage.
template <class Part>
__device__ __forceinline__ void combine(typename Part::Output& out, PartialOutput<Part>& partial) {
  if constexpr (PartialOutput<Part>::splits_k) {
    constexpr int elements = PartialOutput<Part>::elements;
    const auto slot = [&partial](int warp, int element) {
      return partial.sums + (warp * elements + element) * device::warp_size + device::lane_index();
    };
    const auto for_each = [&out](auto f) {
      int element = 0;
      for_each_sum<Part>(out, [&f, &element](auto& sum, int, int) { f(sum, element++); });
    };
    if (Part::warp_k() > 0)
      for_each(
          [&](auto& sum, int element) { device::store_shared(slot(device::warp_index(), element), sum); });
    device::sync_block();  // the partial outputs of the other warps are written
    if (Part::warp_k() == 0)
      for (int k = 1; k < Part::warps_k; ++k)
        for_each([&](auto& sum, int element) {
          sum += device::load_shared(slot(device::warp_index() + k * Part::warps_n, element));
        });
  }
}

}  // namespace cottention::sm80
