// States of pieces into states up to and including each piece, always added in the order of the walk.
#pragma once

#include <cottention/kernel/head.cuh>

namespace cottention::kernel {

/// In place over the images of a head's pieces. Blocks: x as in RecurrenceParams, y = part of an image, z =
/// block of columns. Bidirectional attention needs the last sum alone.
template <AnyRoles R, Tiling tiling>
struct Prefix {
  static constexpr int threads = 128;
  static constexpr int blocks_per_multiprocessor = 1;

  using Params = RecurrenceParams<typename R::element>;
  struct Storage {};

  using A = Accumulate<typename R::element>;
  using Lane = device::Vector<A, 16 / static_cast<int>(sizeof(A))>;
  static constexpr int lane_elements = 16 / static_cast<int>(sizeof(A));
  /// Blocks in y.
  static constexpr std::int64_t parts =
      (StateOf<R, tiling>::image_elements + threads * lane_elements - 1) / (threads * lane_elements);

  static __device__ __forceinline__ void run(const Params& params, Storage&) {
    const Head<R, tiling> head(params);
    const int count = head.pieces.count - (R::mask == Mask::causal ? 1 : 0);
    const std::int64_t element =
        (std::int64_t{device::block_y()} * threads + device::thread_index()) * lane_elements;
    if (element >= StateOf<R, tiling>::image_elements) return;
    const auto place = [&](int piece) {
      return reinterpret_cast<Lane*>(image_of<R, tiling>(params, device::block_z(), piece) + element);
    };
    Lane total{};
#pragma unroll 4
    for (int piece = 0; piece < count; ++piece) {
      const Lane own = device::load_global(place(piece));
#pragma unroll
      for (int e = 0; e < lane_elements; ++e) total[e] = device::sum(total[e], own[e]);
      if (R::mask == Mask::causal || piece == count - 1) device::store_global(place(piece), total);
    }
  }
};

}  // namespace cottention::kernel
