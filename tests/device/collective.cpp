// device/collective.cuh
#include <cstddef>
#include <vector>

#include <cuda_runtime.h>

#include <cottention/device/barrier.cuh>
#include <cottention/device/collective.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>

#include "device/support.hpp"
#include "support/catch.hpp"

namespace {

namespace device = cottention::device;
using device_test::DeviceArray;
using device_test::tabulate;

enum class Between { barrier, nothing };

/// Leaves at out[2 t] and out[2 t + 1] what thread t has of the sum of x, and of a second one of the doubles
/// of x in the same memory.
template <class T, int count, Between between = Between::barrier>
struct SumTwice {
  struct Params {
    T* out;
    const T* x;
  };
  struct Storage {
    device::BlockSumStorage<T, count> sum;
  };
  static constexpr int threads = count, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage& storage) {
    const int thread = device::thread_index();
    const T x = device::load_global(params.x + thread);
    const T first = device::sum_over_block<count>(x, storage.sum);
    if constexpr (between == Between::barrier) device::sync_block();  // the first sum is read
    const T second = device::sum_over_block<count>(x + x, storage.sum);
    device::store_global(params.out + 2 * thread, first);
    device::store_global(params.out + 2 * thread + 1, second);
  }
};

template <class T, int count, Between between = Between::barrier>
std::vector<T> sums(const std::vector<T>& x) {
  DeviceArray<T> in(x);
  return device_test::output<SumTwice<T, count, between>, T>(2 * x.size(), in.data());
}

/// Numbers of many sizes, whose sum is another one in other orders.
double uneven(int i) { return (i % 3 == 1 ? -1.0 : 1.0) * (1 + i * i % 101) / 3 * (1 << i * 5 % 23); }

/// In the order that device/collective.cuh gives.
template <class T>
T sum_in_order(std::vector<T> x) {
  const std::size_t warp = device::warp_size;
  for (std::size_t first = 0; first < x.size(); first += warp)
    for (std::size_t distance = 1; distance < warp; distance *= 2)
      for (std::size_t i = first; i < first + warp; i += 2 * distance) x[i] += x[i + distance];
  T sum = x[0];
  for (std::size_t first = warp; first < x.size(); first += warp) sum += x[first];
  return sum;
}

template <int count>
void check_order() {
  const std::vector<double> x = tabulate(count, uneven);
  double one_by_one = 0;
  for (const double each : x) one_by_one += each;
  REQUIRE(sum_in_order(x) != one_by_one);
  device_test::in_every_schedule([&] {
    const std::vector<double> found = sums<double, count>(x);
    CHECK(found[0] == sum_in_order(x));
    CHECK(found[1] == 2 * sum_in_order(x));
  });
}

/// A kernel of two warps that scans the numbers x - 20 of its threads x.
struct ScanLanes {
  struct Params {
    int* out;
  };
  struct Storage {};
  static constexpr int threads = 64, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage&) {
    const int thread = device::thread_index();
    const device::WarpPrefix found = device::prefix_over_warp(thread - 20);
    device::store_global(params.out + 2 * thread, found.before);
    device::store_global(params.out + 2 * thread + 1, found.total);
  }
};

}  // namespace

TEST_CASE("sum_over_block adds doubles in its order, lane by lane and warp by warp") {
  check_order<32>();
  check_order<128>();
  check_order<256>();
}

TEST_CASE("sum_over_block adds integers") {
  const std::vector<int> x = tabulate(64, [](int i) { return i * i - 1000; });
  const int sum = sum_in_order(x);
  device_test::in_every_schedule([&] {
    const std::vector<int> found = sums<int, 64>(x);
    CHECK(found[0] == sum);
    CHECK(found[1] == 2 * sum);
  });
}

TEST_CASE("prefix_over_warp adds the lanes below, and all lanes of the warp") {
  device_test::in_every_schedule([] {
    CHECK(device_test::output<ScanLanes, int>(128) == tabulate(128, [](int i) {
            const int first = i / 64 * 32, thread = i / 2;
            int sum = 0;
            for (int t = first; t < (i % 2 == 0 ? thread : first + 32); ++t) sum += t - 20;
            return sum;
          }));
  });
}

#if __has_include(<emulation.hpp>)
TEST_CASE("Emulated, sum_over_block is in thread 0 alone") {
  const std::vector<double> found = sums<double, 64>(tabulate(64, uneven));
  for (std::size_t i = 2; i < found.size(); ++i) CHECK(found[i] != found[i]);
}

TEST_CASE("Emulated, a sum in memory of another one without a barrier between shows in some schedule") {
  const std::vector<int> x = tabulate(64, [](int i) { return i + 1; });
  bool shows = false;
  cottention::emulation::for_each_schedule([&](const auto&) {
    try {
      shows = sums<int, 64, Between::nothing>(x)[0] != sum_in_order(x) || shows;
    } catch (const cottention::emulation::Error&) {  // of the race detector
      shows = true;
    }
  });
  CHECK(shows);
}
#endif
