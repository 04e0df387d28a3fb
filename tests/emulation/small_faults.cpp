// Kernels of a few lines, each with one fault that the engine must name.
#include <cstdint>
#include <string>

#include <cuda_runtime.h>

#include <cottention/device/async_copy.cuh>
#include <cottention/device/barrier.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/device/warp.cuh>
#include <emulation.hpp>

#include "device/support.hpp"
#include "support/catch.hpp"

namespace {

namespace device = cottention::device;
using device_test::DeviceArray;

/// A kernel of two warps that does Body::run(global, storage), where global has 64 ints.
template <class Body>
struct Faulty {
  struct Params {
    int* global;
  };
  struct Storage {
    alignas(16) int slot[64];
  };
  static constexpr int threads = 64, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage& storage) {
    Body::run(params.global, storage.slot);
  }
};

/// What the schedule in force reports; empty if nothing.
template <class Body>
std::string report(int* global, int blocks = 1) {
  try {
    device_test::run<Faulty<Body>>({blocks, 1, 1}, {global});
  } catch (const cottention::emulation::Error& error) {
    return error.what();
  }
  return "";
}
template <class Body>
std::string report() {
  DeviceArray<int> global(64);
  return report<Body>(global.data());
}

/// Whether every schedule's report has `part` in it.
template <class Body>
void check_always_reported(const std::string& part) {
  cottention::emulation::for_each_schedule([&](const auto&) {
    const std::string text = report<Body>();
    INFO(text);
    CHECK(text.find(part) != std::string::npos);
    CHECK(text.find("small_faults.cpp:") != std::string::npos);
  });
}

struct ReadPastEnd {
  static void run(int* global, int*) { device::load_global(global + 1 + device::thread_index()); }
};
struct WriteBeforeStart {
  static void run(int* global, int*) {
    if (device::thread_index() == 9) device::store_global(global - 1, 0);
  }
};
struct ReadMisaligned {
  static void run(int* global, int*) {
    device::load_global(reinterpret_cast<const device::Vector<int, 4>*>(global + 1));
  }
};
struct ReadMisalignedShared {
  static void run(int*, int* slot) {
    device::load_shared(reinterpret_cast<const device::Vector<int, 2>*>(slot + 1));
  }
};
struct WritePastSharedEnd {
  static void run(int*, int* slot) { device::store_shared(slot + 2 * device::thread_index(), 0); }
};
struct ReadOne {
  static void run(int* global, int*) { device::load_global(global); }
};
struct ShuffleInBranch {
  static void run(int*, int*) {
    if (device::lane_index() < 16) device::shuffle(1, 0);
  }
};
struct ShuffleAfterExit {
  static void run(int*, int*) {
    if (device::lane_index() == 31) return;
    device::shuffle_xor(1, 1);
  }
};
struct TwoBarrierCounts {
  static void run(int*, int*) { device::bar_sync(3, device::warp_index() == 0 ? 64 : 32); }
};
struct BarrierOfOddCount {
  static void run(int*, int*) { device::bar_sync(3, 48); }
};
struct BarrierOfNoSuchId {
  static void run(int*, int*) { device::bar_sync(16, 64); }
};
struct BarrierOfTwoWords {
  static void run(int*, int*) {
    if (device::warp_index() == 0)
      device::bar_sync(3, 64);
    else
      device::bar_red_or(3, 64, true);
  }
};
struct BarriersCrossed {
  static void run(int*, int*) {
    device::bar_sync(1 + device::warp_index(), 64);
    device::bar_sync(2 - device::warp_index(), 64);
  }
};
struct TwoCopiesToOnePlace {
  static void run(int* global, int* slot) {
    device::cp_async_16(slot, global, 16);
    device::cp_async_commit();
    device::sync_warp();  // both are under way
    device::cp_async_wait<0>();
  }
};
struct StoreWhereACopyGoes {
  static void run(int* global, int* slot) {
    if (device::thread_index() != 0) return;
    device::cp_async_16(slot, global, 16);
    device::store_shared(slot + 2, 5);
    device::cp_async_commit();
    device::cp_async_wait<0>();
  }
};
struct WaitWithoutCommit {
  static void run(int* global, int* slot) {
    if (device::thread_index() == 0) device::cp_async_16(slot, global, 16);
    device::cp_async_wait<0>();
    device::sync_block();  // a copy that no group holds is still in flight
    device::load_shared(slot + 3);
  }
};

struct BlocksWriteTheSame {
  static void run(int* global, int*) {
    if (device::thread_index() == 0) device::store_global(global + 3, 1);
  }
};
/// Block 1 reads what block 0 writes, or the reverse.
template <int reader>
struct BlocksPassOn {
  static void run(int* global, int*) {
    if (device::thread_index() != 0) return;
    if (device::block_x() == reader)
      device::load_global(global);
    else
      device::store_global(global, 1);
  }
};
struct BlocksShareNothing {
  static void run(int* global, int*) {
    int* const own = global + 32 * device::block_x() + device::lane_index();
    if (device::warp_index() == 0) device::store_global(own, device::load_global(own) + 1);
  }
};

/// Every warp adds up what all threads wrote, with sync_warp where sync_block belongs.
struct RaceOfWarps {
  static void run(int* global, int* slot) {
    device::store_shared(slot + device::thread_index(), 1);
    device::sync_warp();
    int sum = 0;
    for (int i = 0; i < 64; ++i) sum += device::load_shared(slot + i);
    device::store_global(global + device::thread_index(), sum);
  }
};
/// Lanes read what their neighbours write, with no sync_warp between.
struct RaceOfLanes {
  static void run(int* global, int* slot) {
    device::store_shared(slot + device::thread_index(), 1);
    device::store_global(global + device::thread_index(),
                         device::load_shared(slot + (device::thread_index() ^ 1)));
  }
};

/// All threads write the same, so that no schedule shows it.
struct RaceOfEqualValues {
  static void run(int*, int* slot) { device::store_shared(slot, 7); }
};
/// As before, behind the words' back.
struct RaceOfPlainCode {
  static void run(int* global, int* slot) {
    slot[5] = 7;
    if (device::thread_index() == 0) device::store_global(global, slot[5]);
  }
};
/// Warp 1 fills what warp 0 copies out, and waits for its own copies alone.
struct RaceWithCopies {
  static void run(int* global, int* slot) {
    if (device::thread_index() == 32) {
      device::cp_async_16(slot, global, 16);
      device::cp_async_commit();
      device::cp_async_wait<0>();
    }
    device::bar_sync(1 + device::warp_index(), 32);
    if (device::thread_index() == 0) device::load_shared(slot + 1);
  }
};
/// Whether some schedule's result differs from `expected`; with the race detector, whether it reports that.
template <class Body>
bool is_noticed(int expected) {
  bool noticed = false;
  cottention::emulation::for_each_schedule([&](const auto&) {
    DeviceArray<int> global(64);
    const std::string text = report<Body>(global.data());
    if (cottention::emulation::detects_races()) {
      CHECK(text.find("data race: ") != std::string::npos);
      noticed = true;
    } else {
      CHECK(text == "");
      for (const int value : global.values()) noticed = noticed || value != expected;
    }
  });
  return noticed;
}

}  // namespace

TEST_CASE("An access outside its allocation is reported with offset and size") {
  check_always_reported<ReadPastEnd>("ld.global: 4 bytes at offset 256 of an allocation of 256 bytes");
  check_always_reported<WriteBeforeStart>(
      "st.global: 4 bytes start 4 bytes before an allocation of 256 bytes");
}

TEST_CASE("A misaligned access is reported") {
  check_always_reported<ReadMisaligned>("is not aligned to 16");
  check_always_reported<ReadMisalignedShared>("ld.shared: offset 4 of shared memory is not aligned to 8");
}

TEST_CASE("An access past the end of shared memory is reported") {
  check_always_reported<WritePastSharedEnd>("of shared memory, of which the block has 256");
}

TEST_CASE("Memory that is freed, or never was the device's, is not accessible") {
  int* freed = nullptr;
  REQUIRE(cudaMalloc(&freed, 256) == cudaSuccess);
  REQUIRE(cudaFree(freed) == cudaSuccess);
  CHECK(report<ReadOne>(freed).find(
            "4 bytes at offset 0 of an allocation of 256 bytes that has been freed") != std::string::npos);
  int hosts = 0;
  CHECK(report<ReadOne>(&hosts).find("is no global address") != std::string::npos);
  CHECK(report<ReadOne>(nullptr).find("is no global address") != std::string::npos);
}

TEST_CASE("A report starts with file, line, block, warp and lane, and ends with the schedule") {
  const std::string text = report<WriteBeforeStart>();
  INFO(text);
  CHECK(text.rfind("emulation/small_faults.cpp:", 0) == 0);
  CHECK(text.find(": block (0,0,0) warp 0 lane 9: ") != std::string::npos);
  CHECK(text.find("[forward schedule, late copies, seed 1]") != std::string::npos);
}

TEST_CASE("Lanes that miss a shuffle are reported") {
  check_always_reported<ShuffleInBranch>("shfl.sync");
  check_always_reported<ShuffleAfterExit>("shfl.sync");
}

TEST_CASE("Barriers that do not fit together are reported") {
  check_always_reported<TwoBarrierCounts>(
      "barrier 3");  // whose counts differ, or which one of them never opens
  check_always_reported<BarrierOfOddCount>("bar.sync: 48 threads");
  check_always_reported<BarrierOfNoSuchId>("bar.sync: no barrier 16");
  check_always_reported<BarrierOfTwoWords>("barrier 3 is met by another word");
}

TEST_CASE("A deadlock is reported with who waits where") {
  cottention::emulation::for_each_schedule([](const auto&) {
    const std::string text = report<BarriersCrossed>();
    INFO(text);
    CHECK(text.find("deadlock: 64 of 64 threads wait, none can run") != std::string::npos);
    CHECK(text.find("threads 0-31: bar.sync at emulation/small_faults.cpp:") != std::string::npos);
    CHECK(text.find("(barrier 1: 32 of 64 threads have arrived)") != std::string::npos);
    CHECK(text.find("threads 32-63: bar.sync at emulation/small_faults.cpp:") != std::string::npos);
    CHECK(text.find("(barrier 2: 32 of 64 threads have arrived)") != std::string::npos);
  });
}

TEST_CASE("Nothing may touch the destination of a copy that is under way") {
  check_always_reported<TwoCopiesToOnePlace>(
      "cp.async: offset 0 of shared memory is the destination of the asynchronous copy");
  check_always_reported<StoreWhereACopyGoes>(
      "st.shared: offset 8 of shared memory is the destination of the asynchronous copy");
  check_always_reported<WaitWithoutCommit>("asynchronous copy");
}

TEST_CASE("Blocks of one launch must not need one another's writes") {
  const auto reported = [](auto body) {
    bool found = false;
    cottention::emulation::for_each_schedule([&](const auto&) {
      DeviceArray<int> global(64);
      const std::string text = report<decltype(body)>(global.data(), 2);
      found = found || text.find("of an allocation of 256 bytes was written by block (") != std::string::npos;
    });
    return found;
  };
  CHECK(reported(BlocksWriteTheSame{}));
  CHECK(reported(BlocksPassOn<0>{}));
  CHECK(reported(BlocksPassOn<1>{}));
  CHECK_FALSE(reported(BlocksShareNothing{}));
}

TEST_CASE("A race of warps or of lanes shows in some schedule") {
  CHECK(is_noticed<RaceOfWarps>(64));
  CHECK(is_noticed<RaceOfLanes>(1));
}

TEST_CASE("The race detector finds what no schedule shows, and only that") {
  cottention::emulation::for_each_schedule([](const auto&) {
    const std::string found = cottention::emulation::detects_races() ? "data race: " : "";
    for (const std::string& text :
         {report<RaceOfEqualValues>(), report<RaceOfPlainCode>(), report<RaceWithCopies>()}) {
      INFO(text);
      CHECK(text.find(found) != std::string::npos);
      CHECK(text.empty() == found.empty());
    }
  });
}
