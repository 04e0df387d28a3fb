// The number of tokens that the states have absorbed.
#pragma once

#include <cottention/device/collective.cuh>
#include <cottention/kernel/params.cuh>
#include <cottention/tile/counts.cuh>

namespace cottention::kernel {

/// final_count = initial_count + unmasked keys. Blocks: x = sequence. It is a launch of its own because every
/// block of the other kernels reads the initial counts, which may lie where the final ones do.
struct Count {
  static constexpr int threads = 128;
  static constexpr int min_blocks_per_sm = 1;

  struct Params {
    tile::OffsetsView offsets;
    const std::uint8_t* mask = nullptr;
    std::int64_t seq = 0;
    const std::int64_t* initial = nullptr;
    std::int64_t* final = nullptr;
  };
  struct Storage {
    device::BlockSumStorage<int, threads> sum;
  };

  static __device__ __forceinline__ void run(const Params& params, Storage& storage) {
    const std::int64_t batch = device::block_x();
    const tile::SequenceSide keys(params.offsets, params.mask, batch, params.seq);
    const std::int64_t valid = tile::count_valid(keys.mask, 0, keys.length, storage.sum);
    if (device::thread_index() != 0) return;
    const std::int64_t before = params.initial != nullptr ? device::load_global(params.initial + batch) : 0;
    device::store_global(params.final + batch, before + valid);
  }
};

}  // namespace cottention::kernel
