// What the emulator counts, on accesses whose cost is known.
#include <cstdint>

#include <cuda_runtime.h>

#include <cottention/device/async_copy.cuh>
#include <cottention/device/matrix.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/device/warp.cuh>
#include <emulation.hpp>

#include "device/support.hpp"
#include "support/catch.hpp"

namespace {

namespace device = cottention::device;
namespace emulation = cottention::emulation;
using device_test::DeviceArray;

/// One warp that does Body::run(global, shared), each of 8,192 bytes.
template <class Body>
struct Counted {
  struct Params {
    char* global;
  };
  struct Storage {
    alignas(128) char bytes[8192];
  };
  static constexpr int threads = 32, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage& storage) {
    Body::run(params.global, storage.bytes);
  }
};

template <class Body>
emulation::Statistics counts() {
  DeviceArray<char> global(8192);
  emulation::Statistics statistics;
  bool first = true;
  emulation::for_each_schedule([&](const auto&) {
    emulation::clear_statistics();
    device_test::run<Counted<Body>>({}, {global.data()});
    if (!first) {  // counts are the kernel's, not the schedule's
      CHECK(emulation::statistics().global_sectors_read == statistics.global_sectors_read);
      CHECK(emulation::statistics().shared_wavefronts == statistics.shared_wavefronts);
    }
    statistics = emulation::statistics();
    first = false;
  });
  return statistics;
}

template <class T, int stride>
struct LoadGlobal {
  static void run(char* global, char*) {
    device::load_global(reinterpret_cast<const T*>(global + stride * device::thread_index()));
  }
};
template <class T, int stride>
struct LoadShared {
  static void run(char*, char* shared) {
    device::load_shared(reinterpret_cast<const T*>(shared + stride * device::thread_index()));
  }
};
/// Lanes with odd index skip the first store of the loop.
struct StoreInBranch {
  static void run(char* global, char*) {
    const int lane = device::lane_index();
    for (int i = 0; i < 2; ++i)
      if (i == 1 || lane % 2 == 0) device::store_global(reinterpret_cast<int*>(global) + 32 * i + lane, i);
  }
};
template <int row_bytes>
struct LoadMatrices {
  static void run(char*, char* shared) {
    std::uint32_t r[4];
    device::ldmatrix_x4(r, shared + row_bytes * device::lane_index());
  }
};
/// Rows of 128 bytes: copied to where they were, and with units turned so that no two of a column share
/// banks.
template <bool swizzled>
struct CopyTile {
  static void run(char* global, char* shared) {
    const int lane = device::lane_index();
    for (int column = 0; column < 8; ++column) {
      const int row = lane, unit = swizzled ? column ^ row % 8 : column;
      device::cp_async_16(shared + 128 * row + 16 * unit, global + 128 * row + 16 * column,
                          lane == 31 ? 4 : 16);
    }
    device::cp_async_commit();
    device::cp_async_wait<0>();
  }
};

using Eight = device::Vector<float, 2>;
using Sixteen = device::Vector<float, 4>;

}  // namespace

TEST_CASE("Global bytes are those asked for, sectors those touched by a warp at once") {
  const auto check = [](const emulation::Statistics& s, std::uint64_t bytes, std::uint64_t sectors) {
    CHECK(s.global_bytes_read == bytes);
    CHECK(s.global_sectors_read == sectors);
    CHECK(s.global_bytes_written == 0);
  };
  check(counts<LoadGlobal<float, 4>>(), 128, 4);
  check(counts<LoadGlobal<float, 0>>(), 128, 1);
  check(counts<LoadGlobal<float, 32>>(), 128, 32);
  check(counts<LoadGlobal<std::uint8_t, 1>>(), 32, 1);
  check(counts<LoadGlobal<Sixteen, 16>>(), 512, 16);
  check(counts<LoadGlobal<Sixteen, 256>>(), 512, 32);
  const emulation::Statistics stored = counts<StoreInBranch>();
  CHECK(stored.global_bytes_written == 48 * 4);
  CHECK(stored.global_bytes_read == 0);
}

TEST_CASE("Conflicts are the passes through the banks beyond one for every 128 bytes") {
  const auto check = [](const emulation::Statistics& s, std::uint64_t wavefronts, std::uint64_t conflicts) {
    CHECK(s.shared_wavefronts == wavefronts);
    CHECK(s.shared_conflicts == conflicts);
  };
  check(counts<LoadShared<float, 4>>(), 1, 0);
  check(counts<LoadShared<float, 0>>(), 1, 0);  // one word for all
  check(counts<LoadShared<float, 8>>(), 2, 1);  // every second bank
  check(counts<LoadShared<float, 128>>(), 32, 31);
  check(counts<LoadShared<float, 132>>(), 1, 0);  // rows padded by a word
  check(counts<LoadShared<std::uint16_t, 2>>(), 1, 0);
  check(counts<LoadShared<Eight, 8>>(), 2, 0);
  check(counts<LoadShared<Eight, 16>>(), 4, 2);
  check(counts<LoadShared<Sixteen, 16>>(), 4, 0);
  check(counts<LoadShared<Sixteen, 128>>(), 32, 28);
  check(counts<LoadMatrices<16>>(), 4, 0);
  check(counts<LoadMatrices<128>>(), 32, 28);
  check(counts<LoadMatrices<144>>(), 4, 0);  // rows padded by 16 bytes
}

TEST_CASE("Copies count bytes read where they come from and conflicts where they go") {
  const emulation::Statistics straight = counts<CopyTile<false>>(), swizzled = counts<CopyTile<true>>();
  CHECK(straight.global_bytes_read == 8 * (31 * 16 + 4));
  CHECK(straight.shared_bytes_written == 8 * 512);
  CHECK(straight.shared_conflicts == 8 * 28);
  CHECK(swizzled.shared_conflicts == 0);
}

TEST_CASE("The places that conflict are listed") {
  emulation::clear_statistics();
  DeviceArray<char> global(8192);
  device_test::run<Counted<LoadMatrices<128>>>({}, {global.data()});
  device_test::run<Counted<LoadMatrices<16>>>({}, {global.data()});
  REQUIRE(emulation::launches().size() == 2);
  const emulation::Launch& first = emulation::launches()[0];
  REQUIRE(first.conflicts.size() == 1);
  CHECK(first.conflicts[0].file == "emulation/traffic.cpp");
  CHECK(first.conflicts[0].conflicts == 28);
  CHECK(first.statistics.matrix_loads == 1);
  CHECK(first.statistics.blocks == 1);
  CHECK(emulation::launches()[1].conflicts.empty());
  CHECK(emulation::statistics().matrix_loads == 2);
}
