// device/warp.cuh
#include <algorithm>
#include <cstdint>

#include <cuda_runtime.h>

#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/device/warp.cuh>

#include "device/support.hpp"
#include "support/catch.hpp"

namespace {

namespace device = cottention::device;
using device_test::tabulate;

/// A kernel of two warps whose threads each store Operation::result().
template <class Operation>
struct StoreResult {
  using T = decltype(Operation::result());
  struct Params {
    T* out;
  };
  struct Storage {};
  static constexpr int threads = 64, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage&) {
    device::store_global(params.out + device::thread_index(), Operation::result());
  }
};

template <class Operation>
auto results() {
  using Kernel = StoreResult<Operation>;
  return device_test::output<Kernel, typename Kernel::T>(Kernel::threads);
}

struct FloatOfNextLane {
  __device__ static float result() {
    return device::shuffle(0.5f * static_cast<float>(device::thread_index()),
                           (device::lane_index() + 1) % 32);
  }
};
struct DoubleOfLaneSeven {
  __device__ static double result() { return device::shuffle(0.1 * device::thread_index(), 7); }
};
template <int mask>
struct WordOfMaskedLane {
  __device__ static std::uint32_t result() {
    return device::shuffle_xor(static_cast<std::uint32_t>(device::thread_index()) * 0x01010101u, mask);
  }
};
struct LongOfMaskedLane {
  __device__ static std::int64_t result() {
    return device::shuffle_xor(static_cast<std::int64_t>(device::thread_index()) << 33, 5);
  }
};
struct BallotOfMultiplesOfThree {
  __device__ static std::uint32_t result() { return device::ballot(device::thread_index() % 3 == 0); }
};
struct AnyLaneIsThread40 {
  __device__ static int result() { return device::any_lane(device::thread_index() == 40) ? 1 : 0; }
};
struct LargestOfLanes {
  __device__ static std::uint32_t result() {
    return device::redux_max(0x7fffffffu + static_cast<std::uint32_t>(device::thread_index() * 37 % 64));
  }
};
struct SumOfLanes {
  __device__ static int result() {
    int sum = device::thread_index();
    for (int mask = 16; mask > 0; mask /= 2) sum += device::shuffle_xor(sum, mask);
    return sum;
  }
};

/// Lanes exchange through shared memory, ordered by sync_warp alone.
struct ExchangeInWarp {
  struct Params {
    int* out;
  };
  struct Storage {
    int slot[64];
  };
  static constexpr int threads = 64, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage& storage) {
    const int thread = device::thread_index();
    device::store_shared(&storage.slot[thread], 10 * thread);
    device::sync_warp();  // the partner's slot is written
    const int partners = device::load_shared(&storage.slot[thread ^ 31]);
    device::sync_warp();  // the partner has read this slot
    device::store_shared(&storage.slot[thread], partners + 1);
    device::store_global(params.out + thread, device::load_shared(&storage.slot[thread]));
  }
};

}  // namespace

TEST_CASE("shuffle fetches the value of any lane of the warp") {
  device_test::in_every_schedule([] {
    CHECK(results<FloatOfNextLane>() ==
          tabulate(64, [](int i) { return 0.5f * static_cast<float>(i / 32 * 32 + (i + 1) % 32); }));
    CHECK(results<DoubleOfLaneSeven>() == tabulate(64, [](int i) { return 0.1 * (i / 32 * 32 + 7); }));
  });
}

TEST_CASE("shuffle_xor fetches the value of the lane whose index differs in the mask's bits") {
  device_test::in_every_schedule([] {
    CHECK(results<WordOfMaskedLane<1>>() ==
          tabulate(64, [](int i) { return static_cast<std::uint32_t>(i ^ 1) * 0x01010101u; }));
    CHECK(results<WordOfMaskedLane<16>>() ==
          tabulate(64, [](int i) { return static_cast<std::uint32_t>(i ^ 16) * 0x01010101u; }));
    CHECK(results<LongOfMaskedLane>() ==
          tabulate(64, [](int i) { return static_cast<std::int64_t>(i ^ 5) << 33; }));
    CHECK(results<SumOfLanes>() == tabulate(64, [](int i) { return i < 32 ? 496 : 1520; }));
  });
}

TEST_CASE("redux_max compares without signs, within a warp") {
  device_test::in_every_schedule([] {
    CHECK(results<LargestOfLanes>() == tabulate(64, [](int i) {
            std::uint32_t largest = 0;
            for (int t = i / 32 * 32; t < i / 32 * 32 + 32; ++t)
              largest = std::max(largest, 0x7fffffffu + static_cast<std::uint32_t>(t * 37 % 64));
            return largest;
          }));
  });
}

TEST_CASE("ballot and any_lane see the predicates of their own warp") {
  device_test::in_every_schedule([] {
    // 0x49249249: bits 0, 3, ... 30. Thread 33 = 32 + 1 is the first multiple of three in the second warp.
    CHECK(results<BallotOfMultiplesOfThree>() ==
          tabulate(64, [](int i) { return i < 32 ? 0x49249249u : 0x92492492u; }));
    CHECK(results<AnyLaneIsThread40>() == tabulate(64, [](int i) { return i < 32 ? 0 : 1; }));
  });
}

TEST_CASE("sync_warp orders what lanes write and read") {
  device_test::in_every_schedule([] {
    CHECK(device_test::output<ExchangeInWarp, int>(64) ==
          tabulate(64, [](int i) { return 10 * (i ^ 31) + 1; }));
  });
}
