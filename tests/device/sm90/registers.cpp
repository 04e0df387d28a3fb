// device/registers.cuh
#include <cuda_runtime.h>

#include <cottention/device/memory.cuh>
#include <cottention/device/registers.cuh>
#include <cottention/device/thread.cuh>

#include "device/support.hpp"
#include "support/catch.hpp"

namespace {

namespace device = cottention::device;

/// One warpgroup leaves registers to two others: 40 + 2 x 232 of the 512 that 128 threads of a multiprocessor
/// share.
struct HandOver {
  struct Params {
    int* out;
  };
  struct Storage {};
  static constexpr int threads = 384, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage&) {
    const int thread = device::thread_index();
    if (thread < 128) {
      device::setmaxnreg_dec<40>();
      device::store_global(params.out + thread, -thread);
    } else {
      device::setmaxnreg_inc<232>();
      device::store_global(params.out + thread, thread);
    }
  }
};

}  // namespace

TEST_CASE("Registers change hands between warpgroups") {
  device_test::in_every_schedule([] {
    CHECK(device_test::output<HandOver, int>(384) ==
          device_test::tabulate(384, [](int i) { return i < 128 ? -i : i; }));
  });
}
