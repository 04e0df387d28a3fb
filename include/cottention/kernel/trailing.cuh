// Outputs of tokens that belong to no sequence of a packed batch.
#pragma once

#include <cottention/device/thread.cuh>
#include <cottention/kernel/params.cuh>

namespace cottention::kernel {

/// Makes rows behind the last sequence 0, of up to `most` tensors. Blocks: x = `blocks`, y = tensor.
template <Element T, int most>
struct Trailing {
  static constexpr int threads = 128;
  static constexpr int min_blocks_per_sm = 1;
  /// How many rows there are only the device knows: enough blocks to write at the speed of memory, few enough
  /// to cost little where there are none.
  static constexpr int blocks = 256;

  struct Rows {
    tile::View<T> view;  // null: nothing to do
    tile::OffsetsView offsets;
    std::int64_t batch = 0, seq = 0, heads = 0, dim = 0;
  };
  struct Params {
    Rows rows[most];
  };
  struct Storage {};

  static __device__ __forceinline__ void run(const Params& params, Storage&) {
    const Rows& x = params.rows[device::block_y()];
    if (x.view.data == nullptr) return;
    const std::int64_t first = x.offsets[x.batch];
    if (first < 0 || first > x.seq) return;  // as tile::Side: out of the tensors
    using Vec = device::Vector<T, 16 / static_cast<int>(sizeof(T))>;
    constexpr int vec_size = 16 / static_cast<int>(sizeof(T));
    const std::int64_t vecs = x.dim / vec_size, total = (x.seq - first) * x.heads * vecs;
    const std::int64_t step = std::int64_t{blocks} * threads;
    for (std::int64_t i = std::int64_t{device::block_x()} * threads + device::thread_index(); i < total;
         i += step) {
      const std::int64_t row = i / vecs, token = first + row / x.heads, head = row % x.heads;
      T* to = x.view.data + token * x.view.seq + head * x.view.head + i % vecs * vec_size;
      device::store_global(reinterpret_cast<Vec*>(to), Vec{});
    }
  }
};

}  // namespace cottention::kernel
