// device/tma.cuh. How tiles lie in shared memory is the PTX ISA's "Tensor: tile mode" and "Swizzling modes":
// with a swizzle of 32, 64 or 128 bytes, one, two or three of the address's bits 4 up are exchanged with bits
// 7 up.
#include <cstdint>
#include <cstring>

#include <cuda_runtime.h>

#include <cottention/device/barrier.cuh>
#include <cottention/device/mbarrier.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/device/tma.cuh>

#include "device/support.hpp"
#include "support/catch.hpp"

namespace {

namespace device = cottention::device;
using cottention::half;
using device::Swizzle;
using device_test::DeviceArray;
using device_test::tabulate;

template <int rank>
struct Corner {
  int index[rank];
};

template <int rank>
__device__ void load(void* to, const device::TensorMap* map, device::Mbarrier* barrier,
                     const Corner<rank>& first) {
  const int* i = first.index;
  if constexpr (rank == 2) device::tma_load(to, map, barrier, i[0], i[1]);
  if constexpr (rank == 3) device::tma_load(to, map, barrier, i[0], i[1], i[2]);
  if constexpr (rank == 4) device::tma_load(to, map, barrier, i[0], i[1], i[2], i[3]);
}

template <int rank>
__device__ void store(const device::TensorMap* map, const void* from, const Corner<rank>& first) {
  const int* i = first.index;
  if constexpr (rank == 2) device::tma_store(map, from, i[0], i[1]);
  if constexpr (rank == 3) device::tma_store(map, from, i[0], i[1], i[2]);
  if constexpr (rank == 4) device::tma_store(map, from, i[0], i[1], i[2], i[3]);
}

constexpr int tile_bytes = 4096;  // of every tile here
constexpr int words = tile_bytes / 4;

template <int rank>
struct LoadTile {
  struct Params {
    device::TensorMap map;
    std::uint32_t* out;  // the tile as it lies in shared memory
    Corner<rank> first;
  };
  struct Storage {
    alignas(1024) std::uint32_t tile[words];
    device::Mbarrier barrier;
  };
  static constexpr int threads = 64, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage& storage) {
    const int thread = device::thread_index();
    if (thread == 0) {
      device::prefetch_map(&params.map);
      device::mbarrier_init(&storage.barrier, 1);
      device::fence_mbarrier_init();
      device::mbarrier_arrive_expect_tx(&storage.barrier, tile_bytes);
      load<rank>(storage.tile, &params.map, &storage.barrier, params.first);
    }
    device::sync_block();  // the barrier is there
    device::mbarrier_wait(&storage.barrier, 0);
    for (int i = thread; i < words; i += threads)
      device::store_global(params.out + i, device::load_shared(&storage.tile[i]));
  }
};

/// Stores the same tile twice, the second time to `second`, in two groups.
template <int rank>
struct StoreTile {
  struct Params {
    device::TensorMap map;
    const std::uint32_t* from;  // the tile as it is to lie in shared memory
    Corner<rank> first, second;
  };
  struct Storage {
    alignas(1024) std::uint32_t tile[words];
  };
  static constexpr int threads = 64, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage& storage) {
    const int thread = device::thread_index();
    for (int i = thread; i < words; i += threads)
      device::store_shared(&storage.tile[i], device::load_global(params.from + i));
    device::fence_proxy_async();
    device::sync_block();  // the tile is written, and shown to the copy engine
    if (thread == 0) {
      store<rank>(&params.map, storage.tile, params.first);
      device::cp_async_bulk_commit();
      store<rank>(&params.map, storage.tile, params.second);
      device::cp_async_bulk_commit();
      device::cp_async_bulk_wait_read<1>();
      device::cp_async_bulk_wait<1>();
      device::cp_async_bulk_wait_read<0>();
    }
  }
};

/// A tensor of halves whose values are their places, in memory with gaps between rows.
template <int rank>
struct Tensor {
  device::TensorTiles<rank> tiles;
  std::vector<std::uint16_t> values;

  Tensor(const int (&extents)[rank], const int (&tile)[rank], Swizzle swizzle) {
    std::int64_t stride = 2 * (extents[0] + 7) / 16 * 16 + 16;  // bytes
    for (int i = 0; i < rank; ++i) {
      tiles.extents[i] = extents[i];
      tiles.tile[i] = tile[i];
      if (i > 0) {
        tiles.strides[i - 1] = stride;
        stride *= extents[i];
      }
    }
    tiles.swizzle = swizzle;
    values.resize(static_cast<std::size_t>(stride / 2));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::uint16_t>(i + 1);
  }

  device::TensorMap map(std::uint16_t* data) {
    tiles.data = data;
    device::TensorMap encoded{};
    device_test::require_success(device::encode_map<half, rank>(encoded, tiles), "encode_map");
    return encoded;
  }

  /// Calls each(place in shared memory, place in `values` or -1 where outside), counted in elements, for
  /// every element of the tile at `first`.
  template <class Each>
  void for_tile(const Corner<rank>& first, Each each) const {
    for (int e = 0; e < tile_bytes / 2; ++e) {
      int rest = e;
      std::int64_t at = 0;
      bool inside = true;
      for (int i = 0; i < rank; ++i) {
        const std::int64_t index = first.index[i] + rest % tiles.tile[i];
        rest /= tiles.tile[i];
        inside = inside && index >= 0 && index < tiles.extents[i];
        at += index * (i == 0 ? 1 : tiles.strides[i > 0 ? i - 1 : 0] / 2);
      }
      std::uint32_t byte = static_cast<std::uint32_t>(2 * e);
      const std::uint32_t rows = byte >> 7;
      switch (tiles.swizzle) {
        case Swizzle::none:
          break;
        case Swizzle::bytes_32:
          byte ^= (rows & 1u) << 4;
          break;
        case Swizzle::bytes_64:
          byte ^= (rows & 3u) << 4;
          break;
        case Swizzle::bytes_128:
          byte ^= (rows & 7u) << 4;
          break;
      }
      each(static_cast<std::size_t>(byte / 2), inside ? at : -1);
    }
  }
};

std::vector<std::uint16_t> halves(const std::vector<std::uint32_t>& from) {
  std::vector<std::uint16_t> to(2 * from.size());
  std::memcpy(to.data(), from.data(), 4 * from.size());
  return to;
}

template <int rank>
void check_load(Tensor<rank> tensor, const std::vector<Corner<rank>>& corners) {
  DeviceArray<std::uint16_t> global(tensor.values);
  for (const Corner<rank>& first : corners) {
    DeviceArray<std::uint32_t> out(words);
    device_test::run<LoadTile<rank>>({}, {tensor.map(global.data()), out.data(), first});
    const std::vector<std::uint16_t> found = halves(out.values());
    std::vector<std::uint16_t> expected(found.size());
    tensor.for_tile(first, [&](std::size_t shared, std::int64_t at) {
      expected[shared] = at < 0 ? std::uint16_t{0} : tensor.values[static_cast<std::size_t>(at)];
    });
    CHECK(found == expected);
  }
}

template <int rank>
void check_store(Tensor<rank> tensor, const Corner<rank>& first, const Corner<rank>& second) {
  DeviceArray<std::uint16_t> global(tensor.values);
  DeviceArray<std::uint32_t> from(
      tabulate(words, [](int i) { return 0xc000c000u + 0x20001u * static_cast<unsigned>(i); }));
  device_test::run<StoreTile<rank>>({}, {tensor.map(global.data()), from.data(), first, second});
  const std::vector<std::uint16_t> tile = halves(from.values());
  std::vector<std::uint16_t> expected = tensor.values;
  for (const Corner<rank>& corner : {first, second})
    tensor.for_tile(corner, [&](std::size_t shared, std::int64_t at) {
      if (at >= 0) expected[static_cast<std::size_t>(at)] = tile[shared];
    });
  CHECK(global.values() == expected);
}

}  // namespace

TEST_CASE("tma_load lays tiles of two dimensions out as the swizzle says") {
  device_test::in_every_schedule([] {
    check_load<2>({{100, 70}, {64, 32}, Swizzle::bytes_128}, {{{0, 0}}, {{8, 5}}});
    check_load<2>({{100, 70}, {32, 64}, Swizzle::bytes_64}, {{{0, 0}}, {{8, 5}}});
    check_load<2>({{100, 140}, {16, 128}, Swizzle::bytes_32}, {{{0, 0}}, {{8, 5}}});
    check_load<2>({{100, 70}, {128, 16}, Swizzle::none}, {{{0, 0}}});
    check_load<2>({{100, 300}, {8, 256}, Swizzle::none}, {{{40, 5}}});
  });
}

TEST_CASE("tma_load fills what lies outside the tensor with zeros, on every side") {
  device_test::in_every_schedule([] {
    check_load<2>({{100, 70}, {64, 32}, Swizzle::bytes_128},
                  {{{-8, -3}}, {{64, 60}}, {{-64, 0}}, {{200, 0}}, {{0, 70}}, {{99, 69}}});
    check_load<3>({{40, 5, 9}, {32, 8, 8}, Swizzle::bytes_64}, {{{16, -2, 4}}, {{0, 2, -7}}});
  });
}

TEST_CASE("tma_load takes tiles of three and four dimensions") {
  device_test::in_every_schedule([] {
    check_load<3>({{64, 10, 12}, {64, 8, 4}, Swizzle::bytes_128}, {{{0, 1, 2}}, {{0, 8, 11}}});
    check_load<4>({{72, 6, 5, 4}, {64, 4, 4, 2}, Swizzle::bytes_128}, {{{0, 1, 1, 1}}, {{8, -1, 4, 3}}});
    check_load<4>({{64, 40, 3, 2}, {64, 32, 1, 1}, Swizzle::none}, {{{0, 8, 2, 1}}});
  });
}

TEST_CASE("tma_store writes what lies inside the tensor, from where the swizzle says") {
  device_test::in_every_schedule([] {
    check_store<2>({{100, 70}, {64, 32}, Swizzle::bytes_128}, {{0, 0}}, {{64, 60}});
    check_store<2>({{100, 70}, {32, 64}, Swizzle::bytes_64}, {{-8, -3}}, {{68, 6}});
    check_store<2>({{100, 140}, {16, 128}, Swizzle::bytes_32}, {{0, 0}}, {{88, 20}});
    check_store<3>({{64, 10, 12}, {64, 8, 4}, Swizzle::bytes_128}, {{0, 1, 2}}, {{0, 9, 8}});
    check_store<4>({{72, 6, 5, 4}, {64, 4, 4, 2}, Swizzle::none}, {{0, 1, 1, 1}}, {{8, -3, 3, 3}});
  });
}

TEST_CASE("encode_map refuses what the copy engine cannot do") {
  DeviceArray<std::uint16_t> global(100 * 70);
  const device::TensorTiles<2> right{global.data(), {64, 70}, {128}, {64, 32}, Swizzle::bytes_128};
  const auto encode = [](const device::TensorTiles<2>& tiles) {
    device::TensorMap map{};
    return device::encode_map<half, 2>(map, tiles);
  };
  CHECK(encode(right) == cudaSuccess);
  auto wrong = right;
  wrong.data = global.data() + 1;
  CHECK(encode(wrong) == cudaErrorInvalidValue);
  wrong = right;
  wrong.strides[0] = 136;
  CHECK(encode(wrong) == cudaErrorInvalidValue);
  wrong = right;
  wrong.tile[1] = 257;
  CHECK(encode(wrong) == cudaErrorInvalidValue);
  wrong = right;
  wrong.tile[0] = 60;
  CHECK(encode(wrong) == cudaErrorInvalidValue);
  wrong = right;
  wrong.tile[0] = 128;  // more than the span of the swizzle
  CHECK(encode(wrong) == cudaErrorInvalidValue);
}
