// What the emulated device promises: memory, runtime calls, options, and the arithmetic it models.
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <thread>
#include <vector>

#include <cuda_runtime.h>

#include <cottention/device/memory.cuh>
#include <cottention/device/mma.cuh>
#include <cottention/device/runtime.cuh>
#include <cottention/device/thread.cuh>
#include <emulation.hpp>

#include "device/support.hpp"
#include "support/catch.hpp"
#include "support/host_calls.hpp"

namespace {

namespace device = cottention::device;
namespace emulation = cottention::emulation;

using support::RestoreOptions;

/// More shared memory than kernels get without asking.
struct MuchShared {
  struct Params {
    int* out;
  };
  struct Storage {
    int words[64 * 1024 / 4];
  };
  static constexpr int threads = 32, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage& storage) {
    device::store_shared(&storage.words[device::thread_index()], device::thread_index());
    device::store_global(params.out + device::thread_index(),
                         device::load_shared(&storage.words[device::thread_index()]));
  }
};

/// Writes what shared memory held at the start.
struct CopyShared {
  struct Params {
    float* out;
  };
  struct Storage {
    float slot[32];
  };
  static constexpr int threads = 32, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage& storage) {
    const int thread = device::thread_index();
    device::store_global(params.out + threads * device::block_x() + thread,
                         device::load_shared(&storage.slot[thread]));
    device::store_shared(&storage.slot[thread], 1.0f);  // which the next block must not see
  }
};

/// a b, where every element of a and b has these bits.
struct MultiplyBits {
  struct Params {
    float* out;
    std::uint32_t a, b;
  };
  struct Storage {};
  static constexpr int threads = 32, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage&) {
    float d[4] = {};
    device::mma_m16n8k8_tf32(d, {params.a, params.a, params.a, params.a}, {params.b, params.b});
    device::store_global(params.out + device::thread_index(), d[0]);
  }
};

}  // namespace

TEST_CASE("Shared memory is NaN at the start of every block") {
  device_test::in_every_schedule([] {
    device_test::DeviceArray<float> out(3 * 32);
    device_test::run<CopyShared>({3, 1, 1}, {out.data()});
    for (const float value : out.values()) CHECK(std::isnan(value));
  });
}

TEST_CASE("Global memory is NaN until written") {
  float* values = nullptr;
  REQUIRE(cudaMalloc(&values, 8 * sizeof(float)) == cudaSuccess);
  std::vector<float> found(8);
  REQUIRE(cudaMemcpy(found.data(), values, 32, cudaMemcpyDeviceToHost) == cudaSuccess);
  for (const float value : found) CHECK(std::isnan(value));
  CHECK(cudaFree(values) == cudaSuccess);
}

TEST_CASE("tf32 operands lose the bits below their fraction") {
  const auto one_and = [](std::uint32_t bits) { return std::bit_cast<std::uint32_t>(1.0f) | bits; };
  const auto product = [](std::uint32_t a, std::uint32_t b) {
    return device_test::output<MultiplyBits, float, std::uint32_t, std::uint32_t>(32, a, b)[0];
  };
  CHECK(product(one_and(0x1fff), one_and(0x1fff)) == 8.0f);
  CHECK(product(one_and(0x2000), one_and(0)) == 8.0f * (1 + 0x1p-10f));
}

TEST_CASE("The runtime refuses what the device would") {
  char* bytes = nullptr;
  REQUIRE(cudaMalloc(&bytes, 100) == cudaSuccess);
  const std::size_t with_bytes = emulation::allocated_bytes();
  std::vector<char> host(200);
  CHECK(cudaMemcpy(bytes, host.data(), 101, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaSuccess);
  CHECK(cudaMemcpy(bytes + 50, host.data(), 51, cudaMemcpyDefault) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(host.data(), bytes, 100, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(host.data(), bytes, 100, cudaMemcpyHostToHost) == cudaErrorInvalidValue);
  CHECK(cudaMemset(host.data(), 0, 100) == cudaErrorInvalidValue);
  CHECK(cudaMemset(bytes + 99, 7, 1) == cudaSuccess);
  CHECK(cudaMemcpy(host.data(), bytes, 100, cudaMemcpyDefault) == cudaSuccess);
  CHECK(host[99] == 7);
  CHECK(cudaFree(bytes) == cudaSuccess);
  CHECK(cudaFree(bytes) == cudaErrorInvalidValue);
  CHECK(cudaFree(nullptr) == cudaSuccess);
  CHECK(emulation::allocated_bytes() == with_bytes - 100);
  CHECK(cudaSetDevice(1) == cudaErrorInvalidDevice);
  CHECK(cudaGetLastError() == cudaErrorInvalidDevice);

  cudaStream_t stream = nullptr;
  CHECK(cudaStreamCreate(&stream) == cudaSuccess);
  CHECK(cudaStreamSynchronize(stream) == cudaSuccess);
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
  CHECK(cudaStreamDestroy(stream) == cudaErrorInvalidResourceHandle);
  (void)cudaGetLastError();
}

TEST_CASE("The options say what device it is") {
  const RestoreOptions restore;
  emulation::options().compute_capability = 86;
  emulation::options().multiprocessors = 84;
  emulation::options().shared_bytes_per_block = 60 * 1024;
  device::Properties properties;
  REQUIRE(device::current_device(properties).ok());
  CHECK(properties.compute_capability == 86);
  CHECK(properties.multiprocessors == 84);
  CHECK(properties.shared_bytes_per_block == 60 * 1024);
  CHECK(device::prepare<MuchShared>() == cudaErrorInvalidValue);
}

TEST_CASE("Every device has its own properties, those that are not remembered too") {
  const RestoreOptions restore;
  for (int round = 0; round < 2; ++round)
    for (int multiprocessors = 1000; multiprocessors < 1000 + 2 * device::detail::cached_devices;
         ++multiprocessors) {
      emulation::options().multiprocessors = multiprocessors;
      device::Properties properties;
      CHECK(device::current_device(properties).ok());
      CHECK(properties.multiprocessors == multiprocessors);
      CHECK(properties.compute_capability == 90);
    }
}

TEST_CASE("A kernel is prepared in each context, however many there are") {
  const RestoreOptions restore;
  device_test::DeviceArray<int> out(32);
  const auto queries = [] { return emulation::runtime_calls().function_attributes; };
  const auto launches = [&] { return device::launch<MuchShared>({}, {out.data()}, nullptr); };
  for (int round = 0; round < 2; ++round)
    for (std::uint64_t context = 100; context < 100 + 2 * device::Prepared<MuchShared>::entries; ++context) {
      emulation::options().context = context;
      if (round == 0) CHECK(launches() == cudaErrorInvalidValue);
      CHECK(device::prepare<MuchShared>() == cudaSuccess);
      CHECK(launches() == cudaSuccess);
      const int before = queries();
      CHECK(device::prepare<MuchShared>() == cudaSuccess);
      CHECK(queries() == before);
    }
  (void)cudaGetLastError();
}

TEST_CASE("Host threads may prepare at the same time") {
  std::vector<std::thread> threads;
  std::atomic<int> failures = 0;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int n = 0; n < 100; ++n) {
        device::Properties properties;
        if (!device::current_device(properties).ok() || properties.multiprocessors != 132 ||
            device::prepare<CopyShared>() != cudaSuccess)
          ++failures;
      }
    });
  for (std::thread& each : threads) each.join();
  CHECK(failures == 0);
}
