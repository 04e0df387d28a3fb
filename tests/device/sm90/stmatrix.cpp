// stmatrix of device/matrix.cuh. PTX ISA, "stmatrix": thread t of the warp gives, of each 8 x 8 matrix, the
// elements (t / 4, 2 (t % 4)) and (t / 4, 2 (t % 4) + 1); the addresses of matrix i's rows come from threads
// 8i to 8i + 7.
#include <cstdint>

#include <cuda_runtime.h>

#include <cottention/device/matrix.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/device/warp.cuh>

#include "device/support.hpp"
#include "support/catch.hpp"

namespace {

namespace device = cottention::device;
using device_test::DeviceArray;
using device_test::tabulate;

// The rows of the four matrices lie in this order, so that neither rows nor matrices follow one another.
__host__ __device__ constexpr int place_of_row(int row) { return (row * 13 + 5) % 32; }

// Element (row, column) of a matrix, as a number that tells which it is.
constexpr std::uint16_t element(int matrix, int row, int column) {
  return static_cast<std::uint16_t>(matrix * 1000 + row * 10 + column);
}

struct StoreMatrices {
  struct Params {
    std::uint16_t* out;         // (place, column)
    const std::uint32_t* from;  // (lane, register)
  };
  struct Storage {
    alignas(16) std::uint16_t row[32][8];
  };
  static constexpr int threads = 32, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage& storage) {
    const int lane = device::lane_index();
    std::uint32_t r[4];
    for (int i = 0; i < 4; ++i) r[i] = device::load_global(params.from + 4 * lane + i);
    device::stmatrix_x4(storage.row[place_of_row(lane)], r);
    device::sync_warp();  // the rows are there
    for (int column = 0; column < 8; ++column)
      device::store_global(params.out + 8 * lane + column, device::load_shared(&storage.row[lane][column]));
  }
};

}  // namespace

TEST_CASE("stmatrix_x4 puts each lane's pairs in their places") {
  device_test::in_every_schedule([] {
    DeviceArray<std::uint32_t> from(tabulate(128, [](int i) {
      const int lane = i / 4, matrix = i % 4, row = lane / 4, column = 2 * (lane % 4);
      return element(matrix, row, column) | static_cast<std::uint32_t>(element(matrix, row, column + 1))
                                                << 16;
    }));
    const auto found =
        device_test::output<StoreMatrices, std::uint16_t, const std::uint32_t*>(256, from.data());
    for (int row = 0; row < 32; ++row)
      for (int column = 0; column < 8; ++column)
        CHECK(found[static_cast<std::size_t>(place_of_row(row) * 8 + column)] ==
              element(row / 8, row % 8, column));
  });
}
