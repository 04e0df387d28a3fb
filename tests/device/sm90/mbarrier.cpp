// device/mbarrier.cuh, without copies: tma.cpp has those.
#include <cuda_runtime.h>

#include <cottention/device/barrier.cuh>
#include <cottention/device/mbarrier.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>

#include "device/support.hpp"
#include "support/catch.hpp"

namespace {

namespace device = cottention::device;
using device_test::tabulate;

/// Warp 0 fills a ring of two slots a lane, which warps 1 and 2 add up; barriers say which slots are full and
/// empty.
struct Ring {
  static constexpr int stages = 2, rounds = 7, consumers = 2;
  struct Params {
    int* out;
  };
  struct Storage {
    device::Mbarrier full[stages], empty[stages];
    int slot[stages][32];
  };
  static constexpr int threads = 32 * (1 + consumers), min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage& storage) {
    const int lane = device::lane_index(), warp = device::warp_index();
    if (device::thread_index() == 0)
      for (int i = 0; i < stages; ++i) {
        device::mbarrier_init(&storage.full[i], 32);
        device::mbarrier_init(&storage.empty[i], 32 * consumers);
      }
    device::sync_block();  // the barriers are there

    int sum = 0;
    for (int round = 0; round < rounds; ++round) {
      const int stage = round % stages, parity = round / stages % 2;
      if (warp == 0) {
        device::mbarrier_wait(&storage.empty[stage], parity ^ 1);  // passes at once in the first rounds
        device::store_shared(&storage.slot[stage][lane], 100 * round + lane);
        device::mbarrier_arrive(&storage.full[stage]);
      } else {
        device::mbarrier_wait(&storage.full[stage], parity);
        sum += warp * device::load_shared(&storage.slot[stage][31 - lane]);
        device::mbarrier_arrive(&storage.empty[stage]);
      }
    }
    if (warp > 0) device::store_global(params.out + 32 * (warp - 1) + lane, sum);
  }
};

}  // namespace

TEST_CASE("Barriers in shared memory hand a ring of slots back and forth") {
  device_test::in_every_schedule([] {
    CHECK(device_test::output<Ring, int>(64) == tabulate(64, [](int i) {
            const int warp = i / 32 + 1, lane = i % 32;
            return warp * (100 * (0 + 1 + 2 + 3 + 4 + 5 + 6) + 7 * (31 - lane));
          }));
  });
}
