// device/barrier.cuh
#include <cuda_runtime.h>

#include <cottention/device/barrier.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>

#include "device/support.hpp"
#include "support/catch.hpp"

namespace {

namespace device = cottention::device;
using device_test::tabulate;

struct ReverseBlock {
  struct Params {
    int* out;
  };
  struct Storage {
    int slot[256];
  };
  static constexpr int threads = 256, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage& storage) {
    const int thread = device::thread_index();
    int value = thread;
    for (int round = 0; round < 3; ++round) {
      device::store_shared(&storage.slot[thread], value);
      device::sync_block();  // every slot is written
      value = 2 * device::load_shared(&storage.slot[threads - 1 - thread]);
      device::sync_block();  // every slot has been read
    }
    device::store_global(params.out + thread, value);
  }
};

/// Each half of the block turns its own slots round, at its own pace.
struct ReverseHalves {
  struct Params {
    int* out;
  };
  struct Storage {
    int slot[128];
  };
  static constexpr int threads = 128, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage& storage) {
    const int thread = device::thread_index(), half = thread / 64;
    int value = thread;
    for (int round = 0; round < 2 * half + 1; ++round) {
      device::store_shared(&storage.slot[thread], value);
      device::bar_sync(1 + half, 64);  // the half's slots are written
      value = device::load_shared(&storage.slot[64 * half + 63 - thread % 64]);
      device::bar_sync(1 + half, 64);  // the half's slots have been read
    }
    device::store_global(params.out + thread, value);
  }
};

/// Each half of the block learns whether the round's thread is one of its own.
struct FindInHalves {
  static constexpr int rounds = 5;
  struct Params {
    int* out;
  };
  struct Storage {};
  static constexpr int threads = 128, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage&) {
    const int thread = device::thread_index(), half = thread / 64;
    int found = 0;
    for (int round = 0; round < rounds; ++round) {
      found |= device::bar_red_or(1 + half, 64, thread == 30 * round) ? 1 << round : 0;
      device::bar_sync(1 + half, 64);
    }
    device::store_global(params.out + thread, found);
  }
};

/// Warp 0 fills a slot of each lane for warp 1 to add up, five times.
struct ProduceAndConsume {
  static constexpr int full = 1, empty = 2, rounds = 5;
  struct Params {
    int* out;
  };
  struct Storage {
    int slot[32];
  };
  static constexpr int threads = 64, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage& storage) {
    const int lane = device::lane_index();
    int sum = 0;
    for (int round = 0; round < rounds; ++round)
      if (device::warp_index() == 0) {
        if (round > 0) device::bar_sync(empty, 64);  // the consumer has read the slots
        device::store_shared(&storage.slot[lane], 100 * round + lane);
        device::bar_arrive(full, 64);
      } else {
        device::bar_sync(full, 64);  // the producer has written the slots
        sum += device::load_shared(&storage.slot[31 - lane]);
        if (round + 1 < rounds) device::bar_arrive(empty, 64);
      }
    if (device::warp_index() == 1) device::store_global(params.out + lane, sum);
  }
};

}  // namespace

TEST_CASE("sync_block orders what all threads of the block write and read") {
  device_test::in_every_schedule([] {
    CHECK(device_test::output<ReverseBlock, int>(256) == tabulate(256, [](int i) { return 8 * (255 - i); }));
  });
}

TEST_CASE("bar_sync orders the threads that share a barrier and holds up no others") {
  device_test::in_every_schedule([] {
    CHECK(device_test::output<ReverseHalves, int>(128) ==
          tabulate(128, [](int i) { return i / 64 * 64 + 63 - i % 64; }));
  });
}

TEST_CASE("bar_red_or tells the threads that share a barrier whether a predicate holds in any") {
  device_test::in_every_schedule([] {
    CHECK(device_test::output<FindInHalves, int>(128) ==
          tabulate(128, [](int i) { return i < 64 ? 0b00111 : 0b11000; }));
  });
}

TEST_CASE("bar_arrive counts towards a barrier without waiting at it") {
  device_test::in_every_schedule([] {
    CHECK(device_test::output<ProduceAndConsume, int>(32) ==
          tabulate(32, [](int i) { return 100 * (0 + 1 + 2 + 3 + 4) + 5 * (31 - i); }));
  });
}
