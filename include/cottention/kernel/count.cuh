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
    tile::SlotsView read_slots = {}, write_slots = {};  // of `initial` and `final`
  };
  struct Storage {
    device::BlockSumStorage<int, threads> sum;
  };

  static __device__ __forceinline__ void run(const Params& params, Storage& storage) {
    const std::int64_t batch = device::block_x();
    const tile::SequenceSide keys(params.offsets, params.mask, batch, params.seq);
    const std::int64_t valid = tile::count_valid(keys.mask, 0, keys.length, storage.sum);
    if (device::thread_index() != 0) return;
    const std::int64_t from = params.initial != nullptr ? params.read_slots[batch] : -1;
    const std::int64_t to = params.write_slots[batch];
    const std::int64_t before = from < 0 ? 0 : device::load_global(params.initial + from);
    if (to >= 0) device::store_global(params.final + to, before + valid);
  }
};

}  // namespace cottention::kernel
