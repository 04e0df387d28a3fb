// device/launch.cuh and device/runtime.cuh
#include <cstddef>
#include <string>
#include <type_traits>

#include <cuda_runtime.h>

#include <cottention/device/barrier.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/runtime.cuh>
#include <cottention/device/thread.cuh>

#include "device/support.hpp"
#include "support/catch.hpp"

namespace {

namespace device = cottention::device;
using device_test::DeviceArray;

/// Its block has `bytes` bytes of shared memory, and writes the last of them.
template <std::size_t bytes>
struct UseShared {
  struct Params {
    int* out;
    int values[5];
  };
  static constexpr int count = static_cast<int>(bytes / 4);
  struct Storage {
    int words[count];
  };
  static constexpr int threads = 32, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage& storage) {
    const int thread = device::thread_index();
    if (thread < 5) device::store_shared(&storage.words[count - 1 - thread], params.values[thread]);
    device::sync_block();  // all five are written
    if (thread < 5)
      device::store_global(params.out + thread, device::load_shared(&storage.words[count - 5 + thread]));
  }
};

}  // namespace

TEST_CASE("A kernel gets its parameters and all of its shared memory") {
  device_test::in_every_schedule([] {
    const auto check = [](auto bytes) {
      DeviceArray<int> out(5);
      device_test::run<UseShared<decltype(bytes)::value>>({}, {out.data(), {1, -2, 3, -4, 5}});
      CHECK(out.values() == std::vector<int>{5, -4, 3, -2, 1});
    };
    check(std::integral_constant<std::size_t, 32>{});
    check(std::integral_constant<std::size_t, 48 * 1024>{});
    check(std::integral_constant<std::size_t, 99 * 1024>{});
  });
}

TEST_CASE("prepare refuses a kernel that wants more shared memory than a block may have") {
  CHECK(device::prepare<UseShared<512 * 1024>>() == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaSuccess);
}

TEST_CASE("launch refuses a kernel that wants much shared memory and was not prepared") {
  DeviceArray<int> out(5);
  CHECK(device::launch<UseShared<64 * 1024>>({}, {out.data(), {}}, nullptr) == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaSuccess);
}

TEST_CASE("launch hands back the runtime's refusal and leaves no error behind") {
  DeviceArray<int> out(5);
  const UseShared<32>::Params params{out.data(), {}};
  CHECK(device::prepare<UseShared<32>>() == cudaSuccess);
  CHECK(device::launch<UseShared<32>>({0, 1, 1}, params, nullptr) == cudaErrorInvalidConfiguration);
  CHECK(device::launch<UseShared<32>>({1, 65536, 1}, params, nullptr) == cudaErrorInvalidConfiguration);
  CHECK(device::launch<UseShared<32>>({1, 1, 65536}, params, nullptr) == cudaErrorInvalidConfiguration);
  CHECK(cudaGetLastError() == cudaSuccess);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
}

TEST_CASE("The properties of the current device are within what the library supports") {
  device::Properties properties;
  REQUIRE(device::current_device(properties).ok());
  CHECK(properties.compute_capability >= 80);
  CHECK(properties.multiprocessors > 0);
  CHECK(properties.shared_bytes_per_block >= 99 * 1024);  // sm_86's, the least from sm_80 on
}

TEST_CASE("A refusal of the runtime becomes a CallStatus that names the call and the error") {
  CHECK(device::status_of(cudaSuccess, "cudaMalloc").ok());
  const cottention::CallStatus status = device::status_of(cudaErrorInvalidValue, "cudaMalloc");
  CHECK(status.code == cottention::StatusCode::cuda_error);
  CHECK(status.cuda_error == static_cast<int>(cudaErrorInvalidValue));
  CHECK(std::string(status.reason) == "cudaMalloc: invalid argument");
  CHECK(device::status_of(cudaErrorNoKernelImageForDevice, "").code == cottention::StatusCode::unsupported);
}
