// What products and stores of tiles read in shared memory, overwritten before or after they have been waited
// for: the race detector has to tell the two apart. All values are zeros, so no schedule's result does.
#include <cstdint>
#include <string>
#include <vector>

#include <cuda_runtime.h>

#include <cottention/device/async_copy.cuh>
#include <cottention/device/barrier.cuh>
#include <cottention/device/mbarrier.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/device/tma.cuh>
#include <cottention/device/warp.cuh>
#include <cottention/device/wgmma.cuh>
#include <cottention/element.hpp>
#include <emulation.hpp>

#include "device/support.hpp"
#include "support/catch.hpp"

namespace {

namespace device = cottention::device;
using cottention::bfloat16;

constexpr int tile_rows = 64, tile_columns = 16;
struct Tile {
  alignas(128) bfloat16 element[tile_rows][tile_columns];
};
constexpr int tile_bytes = sizeof(Tile);

struct Params {
  const bfloat16* zeros;  // a tile of them
  device::TensorMap from, to;
};
struct Storage {
  Tile a, first, second, other;
  device::Mbarrier released, full;
};

using Vec = device::Vector<std::uint32_t, 4>;

enum class Writer { store, cp_async, tma };

/// Overwrites (part of) a tile. Scope: thread.
template <Writer writer>
__device__ void overwrite(const Params& params, Storage& storage, Tile& tile) {
  if constexpr (writer == Writer::store) {
    device::store_shared(reinterpret_cast<Vec*>(&tile), Vec{});
  } else if constexpr (writer == Writer::cp_async) {
    device::cp_async_16(&tile, params.zeros, 16);
    device::cp_async_commit();
    device::cp_async_wait<0>();
  } else {
    device::mbarrier_arrive_expect_tx(&storage.full, tile_bytes);
    device::tma_load(&tile, &params.from, &storage.full, 0, 0);
    device::mbarrier_wait(&storage.full, 0);
  }
}

/// Zeros in all tiles, and barriers: `released` for four warps. Scope: the block, whose first 128 threads
/// write.
__device__ void initialise(Storage& storage) {
  const int thread = device::thread_index();
  if (thread == 0) {
    device::mbarrier_init(&storage.released, 4);
    device::mbarrier_init(&storage.full, 1);
    device::fence_mbarrier_init();
  }
  if (thread < 128)
    for (Tile* const tile : {&storage.a, &storage.first, &storage.second, &storage.other})
      device::store_shared(reinterpret_cast<Vec*>(tile) + thread, Vec{});
  device::fence_proxy_async();
  device::sync_block();  // the tiles are zeros, and shown to the asynchronous proxy
}

/// Starts d = a b^T in a group of its own. Scope: warpgroup.
__device__ void start_product(float (&d)[tile_rows / 2], const Tile& a, const Tile& b, device::Sum sum) {
  const auto descriptor = [](const Tile& tile) {
    return device::matrix_descriptor(&tile, 128, 256, device::Swizzle::none);
  };
  device::wgmma_m64k16<bfloat16, tile_rows, device::Major::k, device::Major::k>(d, descriptor(a),
                                                                                descriptor(b), sum);
  device::wgmma_commit();
}

/// A warpgroup starts two groups of products, a first^T and a second^T, waits until `pending` are in flight,
/// and releases a tile to a fifth warp, which overwrites it.
template <Tile Storage::*tile, Writer writer, int pending>
struct OverwriteOperand {
  using Params = ::Params;
  using Storage = ::Storage;
  static constexpr int threads = 160, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage& storage) {
    initialise(storage);
    if (device::warp_index() == 4) {
      if (device::lane_index() != 0) return;
      device::mbarrier_wait(&storage.released, 0);
      overwrite<writer>(params, storage, storage.*tile);
      return;
    }
    float d[tile_rows / 2] = {};
    device::wgmma_fence();
    start_product(d, storage.a, storage.first, device::Sum::start);
    start_product(d, storage.a, storage.second, device::Sum::add);
    device::wgmma_wait<pending>();
    device::sync_warp();
    if (device::lane_index() == 0) device::mbarrier_arrive(&storage.released);
    device::wgmma_wait<0>();
    device::pin_registers(d);
  }
};

/// A thread loads a tile while its warp's product is in flight, and once that has landed, another one
/// overwrites rows of a that this warp alone reads.
struct OverwriteAfterLoad {
  using Params = ::Params;
  using Storage = ::Storage;
  static constexpr int threads = 160, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage& storage) {
    initialise(storage);
    if (device::warp_index() == 4) {
      if (device::lane_index() != 0) return;
      device::mbarrier_wait(&storage.full, 0);
      overwrite<Writer::store>(params, storage, storage.a);
      return;
    }
    float d[tile_rows / 2] = {};
    device::wgmma_fence();
    start_product(d, storage.a, storage.first, device::Sum::start);
    if (device::thread_index() == 0) {
      device::mbarrier_arrive_expect_tx(&storage.full, tile_bytes);
      device::tma_load(&storage.other, &params.from, &storage.full, 0, 0);
    }
    device::sync_warp();
    device::wgmma_wait<0>();
    device::pin_registers(d);
  }
};

/// A thread starts stores of two tiles, one group each, waits until `pending` have yet to read theirs, and
/// overwrites one.
template <Tile Storage::*tile, Writer writer, int pending>
struct OverwriteStored {
  using Params = ::Params;
  using Storage = ::Storage;
  static constexpr int threads = 128, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage& storage) {
    initialise(storage);
    if (device::thread_index() != 0) return;
    for (int i = 0; i < 2; ++i) {
      device::tma_store(&params.to, i == 0 ? &storage.first : &storage.second, 0, i * tile_rows);
      device::cp_async_bulk_commit();
    }
    device::cp_async_bulk_wait_read<pending>();
    overwrite<writer>(params, storage, storage.*tile);
    device::cp_async_bulk_wait<0>();
  }
};

device::TensorMap map_of(bfloat16* data, int rows) {
  device::TensorMap map{};
  device_test::require_success(device::encode_map<bfloat16, 2>(map, {data,
                                                                     {tile_columns, rows},
                                                                     {tile_columns * sizeof(bfloat16)},
                                                                     {tile_columns, tile_rows},
                                                                     device::Swizzle::none}),
                               "encode_map");
  return map;
}

/// Requires that each schedule reports, or does not report, that what `reader` reads is overwritten. Without
/// the race detector a schedule reports it only where the write comes before the read, which no fence has
/// shown it.
template <class Kernel>
void check(bool is_race, const std::string& reader) {
  constexpr std::size_t elements = tile_rows * tile_columns;
  device_test::DeviceArray<bfloat16> zeros{std::vector<bfloat16>(elements)}, out{2 * elements};
  const Params params{zeros.data(), map_of(zeros.data(), tile_rows), map_of(out.data(), 2 * tile_rows)};
  cottention::emulation::for_each_schedule([&](const auto&) {
    std::string text;
    try {
      device_test::run<Kernel>({}, params);
    } catch (const cottention::emulation::Error& error) {
      text = error.what();
    }
    INFO(text);
    const auto has = [&](const std::string& part) { return text.find(part) != std::string::npos; };
    if (!is_race)
      CHECK(text == "");
    else if (cottention::emulation::detects_races())
      CHECK((has("data race: write by ") && has("read by " + reader)));
    else
      CHECK((text == "" || has("no fence_proxy_async has followed")));
  });
}

template <Tile Storage::*tile, int pending>
void check_operand(bool is_race) {
  check<OverwriteOperand<tile, Writer::store, pending>>(is_race, "products of warp ");
  check<OverwriteOperand<tile, Writer::cp_async, pending>>(is_race, "products of warp ");
  check<OverwriteOperand<tile, Writer::tma, pending>>(is_race, "products of warp ");
}

}  // namespace

TEST_CASE("Operands of products may be overwritten once their group has been waited for") {
  check_operand<&Storage::a, 0>(false);
  check_operand<&Storage::first, 0>(false);
  check_operand<&Storage::second, 0>(false);
  check_operand<&Storage::first, 1>(false);
}

TEST_CASE("An operand that is overwritten while a product may read it is a race") {
  check_operand<&Storage::a, 1>(true);
  check_operand<&Storage::second, 1>(true);
  check_operand<&Storage::first, 2>(true);
}

TEST_CASE("That a thread's load has landed says nothing of the products before it") {
  check<OverwriteAfterLoad>(true, "products of warp 0 lane 0");
}

TEST_CASE("A tile may be overwritten once its store has been waited for, and no sooner") {
  check<OverwriteStored<&Storage::second, Writer::store, 0>>(false, "");
  check<OverwriteStored<&Storage::first, Writer::tma, 1>>(false, "");
  check<OverwriteStored<&Storage::second, Writer::store, 1>>(true, "stores of warp 0 lane 0");
  check<OverwriteStored<&Storage::second, Writer::tma, 1>>(true, "stores of warp 0 lane 0");
}
