// Zeros for the tokens of a packed batch that belong to no sequence.
#pragma once

#include <cottention/device/thread.cuh>
#include <cottention/kernel/params.cuh>

namespace cottention::kernel {

/// Sets the rows after the last sequence to 0, in up to `max_tensors` tensors. Blocks: x = `blocks` of them,
/// y = tensor.
template <Element T, int max_tensors>
struct Trailing {
  static constexpr int threads = 128;
  static constexpr int min_blocks_per_sm = 1;
  /// Offsets lie in device memory, so the host does not know the number of rows: 256 blocks of 128 threads
  /// are at least one for each multiprocessor of the GPUs of sm_80 to sm_120, and a launch of them costs
  /// little where there are no rows.
  static constexpr int blocks = 256;

  struct Rows {
    tile::View<T> view;  // null: nothing to do
    tile::OffsetsView offsets;
    std::int64_t batch = 0, seq = 0, heads = 0, dim = 0;
  };
  struct Params {
    Rows rows[max_tensors];
  };
  struct Storage {};

  static __device__ __forceinline__ void run(const Params& params, Storage&) {
    const Rows& x = params.rows[device::block_y()];
    if (x.view.data == nullptr) return;
    const std::int64_t first = x.offsets[x.batch];
    if (first < 0 || first > x.seq) return;  // offsets that lead out of the tensor, as in tile::SequenceSide
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
