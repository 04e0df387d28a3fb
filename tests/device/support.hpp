// Runs a kernel on the device, or in every schedule of the emulator: the same tests for both.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <cuda_runtime.h>

#include <cottention/device/launch.cuh>

#if __has_include(<emulation.hpp>)
#include <emulation.hpp>
#endif

namespace device_test {

inline void require_success(cudaError_t error, const char* call) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(error));
}

/// Values in device memory, in an allocation of their own.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t count) : count_(count) {
    require_success(cudaMalloc(&data_, count * sizeof(T)), "cudaMalloc");
    require_success(cudaMemset(data_, 0xff, count * sizeof(T)), "cudaMemset");
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    require_success(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice),
                    "cudaMemcpy");
  }
  ~DeviceArray() { (void)cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() { return data_; }
  std::vector<T> values() const {
    std::vector<T> values(count_);
    require_success(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost),
                    "cudaMemcpy");
    return values;
  }

 private:
  T* data_ = nullptr;
  std::size_t count_;
};

/// Launches and waits. Throws on every error.
template <class Kernel>
void run(cottention::device::Grid grid, const typename Kernel::Params& params) {
  require_success(cottention::device::prepare<Kernel>(), "prepare");
  require_success(cottention::device::launch<Kernel>(grid, params, nullptr), "launch");
  require_success(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

/// Calls `body()` in every schedule of the emulator; once on a device.
template <class Body>
void in_every_schedule(Body body) {
#if __has_include(<emulation.hpp>)
  cottention::emulation::for_each_schedule([&](const auto&) { body(); });
#else
  body();
#endif
}

/// Runs Kernel in one block and returns the `count` values that it leaves at `params.out`. Params starts with
/// `out`; what follows it is `rest`.
template <class Kernel, class T, class... Rest>
std::vector<T> output(std::size_t count, Rest... rest) {
  DeviceArray<T> out(count);
  run<Kernel>({}, {out.data(), rest...});
  return out.values();
}

/// f(0), f(1), ... as a vector.
template <class F>
auto tabulate(int count, F f) {
  std::vector<decltype(f(0))> values;
  for (int i = 0; i < count; ++i) values.push_back(f(i));
  return values;
}

}  // namespace device_test
