// device/memory.cuh
#include <algorithm>
#include <cstdint>

#include <cuda_runtime.h>

#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>

#include "device/support.hpp"
#include "support/catch.hpp"

namespace {

namespace device = cottention::device;
using device_test::DeviceArray;
using device_test::tabulate;

enum class Path { plain, streaming };

/// Moves values of T from global to shared memory and on to global memory, one a thread.
template <class T, Path path>
struct MoveThroughShared {
  struct Params {
    T* to;
    const T* from;
  };
  struct Storage {
    T slot[32];
  };
  static constexpr int threads = 32, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage& storage) {
    const int thread = device::thread_index();
    if constexpr (path == Path::plain)
      device::store_shared(&storage.slot[thread], device::load_global(params.from + thread));
    else
      device::store_shared(&storage.slot[thread], device::load_global_streaming(params.from + thread));
    device::store_global(params.to + thread, device::load_shared(&storage.slot[thread]));
  }
};

template <class T, Path path = Path::plain>
void check_moves() {
  constexpr int bytes = 32 * static_cast<int>(sizeof(T));
  const auto pattern = tabulate(bytes, [](int i) { return static_cast<std::uint8_t>(37 * i + 11); });
  DeviceArray<std::uint8_t> from(pattern), to(pattern.size());
  device_test::run<MoveThroughShared<T, path>>(
      {}, {reinterpret_cast<T*>(to.data()), reinterpret_cast<const T*>(from.data())});
  CHECK(to.values() == pattern);
}

/// Every thread of every block adds its index + 1 and stores what it found.
struct AddIndices {
  struct Params {
    std::int64_t* sum;
    std::int64_t* before;
  };
  struct Storage {};
  static constexpr int threads = 64, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage&) {
    const int index = device::block_x() * threads + device::thread_index();
    device::store_global(params.before + index, device::fetch_add_global(params.sum, index + 1));
  }
};

}  // namespace

TEST_CASE("Loads and stores move 1, 2, 4, 8 and 16 bytes") {
  device_test::in_every_schedule([] {
    check_moves<std::uint8_t>();
    check_moves<std::uint16_t>();
    check_moves<float>();
    check_moves<double>();
    check_moves<device::Vector<float, 2>>();
    check_moves<device::Vector<double, 2>>();
    check_moves<device::Vector<std::uint16_t, 8>>();
    check_moves<device::Vector<std::uint32_t, 4>, Path::streaming>();
  });
}

TEST_CASE("A Vector is aligned to its size") {
  STATIC_REQUIRE(sizeof(device::Vector<float, 4>) == 16);
  STATIC_REQUIRE(alignof(device::Vector<float, 4>) == 16);
  STATIC_REQUIRE(alignof(device::Vector<std::uint16_t, 2>) == 4);
}

TEST_CASE("fetch_add_global adds what all threads of all blocks give, one after the other") {
  device_test::in_every_schedule([] {
    constexpr std::size_t blocks = 3, threads = AddIndices::threads;
    DeviceArray<std::int64_t> sum(std::vector<std::int64_t>{-5}), before(blocks * threads);
    device_test::run<AddIndices>({blocks, 1, 1}, {sum.data(), before.data()});
    const std::vector<std::int64_t> found = before.values();
    CHECK(sum.values()[0] == -5 + 192 * 193 / 2);
    // Each thread found a sum to which its own share was then added: in the order of the sums, each is the
    // one before it and that one's share.
    std::vector<std::size_t> order(found.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return found[a] < found[b]; });
    std::int64_t expected = -5;
    for (const std::size_t i : order) {
      CHECK(found[i] == expected);
      expected += static_cast<std::int64_t>(i) + 1;
    }
  });
}
