// device/async_copy.cuh
#include <cstdint>

#include <cuda_runtime.h>

#include <cottention/device/async_copy.cuh>
#include <cottention/device/barrier.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>

#include "device/support.hpp"
#include "support/catch.hpp"

namespace {

namespace device = cottention::device;
using device_test::DeviceArray;
using device_test::tabulate;

using Row = device::Vector<std::uint8_t, 16>;

/// Thread i copies the first i bytes of row i, i = 0 to 16.
struct CopyPrefixes {
  struct Params {
    Row* to;
    const Row* from;
  };
  struct Storage {
    Row row[17];
  };
  static constexpr int threads = 32, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage& storage) {
    const int thread = device::thread_index();
    if (thread < 17) {
      device::cp_async_16(&storage.row[thread], params.from + thread, thread);
      device::cp_async_commit();
      device::cp_async_wait<0>();
      device::store_global(params.to + thread, device::load_shared(&storage.row[thread]));
    }
  }
};

/// Sums rows that travel through a ring of three slots, two groups ahead of the sum.
struct SumThroughRing {
  static constexpr int rows = 7, stages = 3;
  struct Params {
    int* out;
    const int* from;  // (rows, threads, 4)
  };
  struct Storage {
    device::Vector<int, 4> slot[stages][64];
  };
  static constexpr int threads = 64, min_blocks_per_sm = 1;

  __device__ static void begin(const Params& params, Storage& storage, int row) {
    const int thread = device::thread_index();
    if (row < rows)
      device::cp_async_16(&storage.slot[row % stages][thread], params.from + (row * threads + thread) * 4,
                          16);
    device::cp_async_commit();  // an empty group past the end keeps the count of groups the same
  }

  __device__ static void run(const Params& params, Storage& storage) {
    const int thread = device::thread_index();
    int sum = 0;
    begin(params, storage, 0);
    begin(params, storage, 1);
    for (int row = 0; row < rows; ++row) {
      device::cp_async_wait<1>();
      device::sync_block();  // the row's copies are visible to all; the slot filled next has been read
      begin(params, storage, row + 2);
      const auto values = device::load_shared(&storage.slot[row % stages][threads - 1 - thread]);
      sum += values[0] + 10 * values[1] + 100 * values[2] + 1000 * values[3];
    }
    device::cp_async_wait<0>();
    device::store_global(params.out + thread, sum);
  }
};

}  // namespace

TEST_CASE("cp_async_16 copies the bytes asked for and fills 16 with zeros") {
  device_test::in_every_schedule([] {
    DeviceArray<std::uint8_t> from(
        tabulate(17 * 16, [](int i) { return static_cast<std::uint8_t>(i % 251 + 1); }));
    DeviceArray<std::uint8_t> to(17 * 16);
    device_test::run<CopyPrefixes>(
        {}, {reinterpret_cast<Row*>(to.data()), reinterpret_cast<const Row*>(from.data())});
    CHECK(to.values() == tabulate(17 * 16, [](int i) {
            return static_cast<std::uint8_t>(i % 16 < i / 16 ? i % 251 + 1 : 0);
          }));
  });
}

TEST_CASE("cp_async_wait leaves the latest groups in flight and waits for the others") {
  device_test::in_every_schedule([] {
    constexpr int rows = SumThroughRing::rows, threads = SumThroughRing::threads;
    DeviceArray<int> from(tabulate(rows * threads * 4, [](int i) { return i % 9; }));
    const std::vector<int> sums = device_test::output<SumThroughRing, int, const int*>(threads, from.data());
    CHECK(sums == tabulate(threads, [](int thread) {
            int sum = 0;
            for (int row = 0; row < rows; ++row)
              for (int e = 0, place = 1; e < 4; ++e, place *= 10)
                sum += place * (((row * threads + threads - 1 - thread) * 4 + e) % 9);
            return sum;
          }));
  });
}
