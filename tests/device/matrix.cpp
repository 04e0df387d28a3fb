// device/matrix.cuh. PTX ISA, "ldmatrix": thread t of the warp gets, of each 8 x 8 matrix, the elements
// (t / 4, 2 (t % 4)) and (t / 4, 2 (t % 4) + 1); the addresses of matrix i's rows come from threads 8i to 8i
// + 7.
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

enum class Orientation { straight, transposed };

// The rows of the four matrices lie in this order, so that neither rows nor matrices follow one another.
__host__ __device__ constexpr int place_of_row(int row) { return (row * 13 + 5) % 32; }

// Element (row, column) of a matrix, as a number that tells which it is.
constexpr std::uint16_t element(int matrix, int row, int column) {
  return static_cast<std::uint16_t>(matrix * 1000 + row * 10 + column);
}

struct Storage {
  alignas(16) std::uint16_t row[32][8];
};

template <Orientation orientation>
struct LoadMatrices {
  struct Params {
    std::uint32_t* out;         // (lane, register)
    const std::uint16_t* from;  // (place, column)
  };
  using Storage = ::Storage;
  static constexpr int threads = 32, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage& storage) {
    const int lane = device::lane_index();
    for (int column = 0; column < 8; ++column)
      device::store_shared(&storage.row[lane][column], device::load_global(params.from + 8 * lane + column));
    device::sync_warp();  // the rows are there
    std::uint32_t r[4];
    if constexpr (orientation == Orientation::straight)
      device::ldmatrix_x4(r, storage.row[place_of_row(lane)]);
    else
      device::ldmatrix_x4_trans(r, storage.row[place_of_row(lane)]);
    for (int i = 0; i < 4; ++i) device::store_global(params.out + 4 * lane + i, r[i]);
  }
};

template <Orientation orientation>
void check_load() {
  std::vector<std::uint16_t> rows(32 * 8);
  for (int row = 0; row < 32; ++row)
    for (int column = 0; column < 8; ++column)
      rows[static_cast<std::size_t>(place_of_row(row) * 8 + column)] = element(row / 8, row % 8, column);
  DeviceArray<std::uint16_t> from(rows);
  const auto found =
      device_test::output<LoadMatrices<orientation>, std::uint32_t, const std::uint16_t*>(128, from.data());
  CHECK(found == tabulate(128, [](int i) {
          const int lane = i / 4, matrix = i % 4, row = lane / 4, column = 2 * (lane % 4);
          const auto at = [&](int c) {
            return static_cast<std::uint32_t>(orientation == Orientation::straight ? element(matrix, row, c)
                                                                                   : element(matrix, c, row));
          };
          return at(column) | at(column + 1) << 16;
        }));
}

}  // namespace

TEST_CASE("ldmatrix_x4 gives each lane its pairs of four matrices") {
  device_test::in_every_schedule([] { check_load<Orientation::straight>(); });
}

TEST_CASE("ldmatrix_x4_trans gives each lane its pairs of four transposed matrices") {
  device_test::in_every_schedule([] { check_load<Orientation::transposed>(); });
}
