// device/thread.cuh
#include <cuda_runtime.h>

#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>

#include "device/support.hpp"
#include "support/catch.hpp"

namespace {

namespace device = cottention::device;

struct Indices {
  int thread, lane, warp, block_x, block_y, block_z;
  bool operator==(const Indices&) const = default;
};

struct WriteIndices {
  struct Params {
    int* out;  // 6 for each thread of each block
    int grid_x, grid_y;
  };
  struct Storage {};
  static constexpr int threads = 96, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage&) {
    const int block =
        device::block_x() + params.grid_x * (device::block_y() + params.grid_y * device::block_z());
    int* const out = params.out + (block * threads + device::thread_index()) * 6;
    const int values[6] = {device::thread_index(), device::lane_index(), device::warp_index(),
                           device::block_x(),      device::block_y(),    device::block_z()};
    for (int i = 0; i < 6; ++i) device::store_global(out + i, values[i]);
  }
};

}  // namespace

TEST_CASE("Threads know their place in warp, block and grid") {
  constexpr int grid_x = 2, grid_y = 3, grid_z = 2;
  device_test::in_every_schedule([] {
    device_test::DeviceArray<int> out(grid_x * grid_y * grid_z * WriteIndices::threads * 6);
    device_test::run<WriteIndices>({grid_x, grid_y, grid_z}, {out.data(), grid_x, grid_y});
    const std::vector<int> values = out.values();
    std::size_t next = 0;
    for (int z = 0; z < grid_z; ++z)
      for (int y = 0; y < grid_y; ++y)
        for (int x = 0; x < grid_x; ++x)
          for (int thread = 0; thread < WriteIndices::threads; ++thread, next += 6) {
            const Indices found{values[next],     values[next + 1], values[next + 2],
                                values[next + 3], values[next + 4], values[next + 5]};
            REQUIRE(found == Indices{thread, thread % 32, thread / 32, x, y, z});
          }
  });
}
