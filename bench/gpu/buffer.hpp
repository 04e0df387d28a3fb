// Device memory with random numbers in it.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include <cottention/device/convert.cuh>
#include <cottention/device/launch.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/element.hpp>

#include "machine.hpp"

namespace bench {

/// Fills memory with numbers uniform in [-1, 1): the finaliser of MurmurHash3 over the index.
template <cottention::Element T>
struct Fill {
  struct Params {
    T* out;
    std::int64_t count;
    std::uint32_t seed;
  };
  struct Storage {};
  static constexpr int threads = 256, blocks_per_multiprocessor = 1;
  static constexpr int each = 16;  // elements of a thread

  static __device__ void run(const Params& params, Storage&) {
    namespace device = cottention::device;
    for (int i = 0; i < each; ++i) {
      const std::int64_t at = (std::int64_t{device::block_x()} * each + i) * threads + device::thread_index();
      if (at >= params.count) return;
      auto x = static_cast<std::uint32_t>(at) + params.seed * 0x9e3779b9u;
      x ^= x >> 16;
      x *= 0x85ebca6bu;
      x ^= x >> 13;
      x *= 0xc2b2ae35u;
      x ^= x >> 16;
      const float value = static_cast<float>(x >> 8) * 0x1p-23f - 1.0f;
      device::store_global(params.out + at, device::narrow<T>(static_cast<cottention::Accumulate<T>>(value)));
    }
  }
};

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::int64_t count) : count_(count) {
    if (count == 0) return;
    require_success(cudaMalloc(&data_, bytes()), "cudaMalloc");
    poison();
  }
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), count_(std::exchange(other.count_, 0)) {}
  Buffer& operator=(Buffer other) noexcept {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    return *this;
  }
  ~Buffer() { (void)cudaFree(data_); }

  T* data() const { return data_; }
  std::size_t bytes() const { return static_cast<std::size_t>(count_) * sizeof(T); }

  /// NaN in every type.
  void poison() { require_success(cudaMemset(data_, 0xff, bytes()), "cudaMemset"); }

  void upload(const std::vector<T>& values) {
    require_success(cudaMemcpy(data_, values.data(), bytes(), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  std::vector<T> download() const {
    std::vector<T> values(static_cast<std::size_t>(count_));
    require_success(cudaMemcpy(values.data(), data_, bytes(), cudaMemcpyDeviceToHost), "cudaMemcpy");
    return values;
  }

 private:
  T* data_ = nullptr;
  std::int64_t count_ = 0;
};

template <class T>
Buffer<T> random_buffer(std::int64_t count, std::uint32_t seed) {
  Buffer<T> buffer(count);
  using Kernel = Fill<T>;
  constexpr std::int64_t block = Kernel::threads * Kernel::each;
  require_success(cottention::device::prepare<Kernel>(), "prepare");
  require_success(cottention::device::launch<Kernel>({(count + block - 1) / block},
                                                     {buffer.data(), count, seed}, nullptr),
                  "launch");
  require_success(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  return buffer;
}

template <class T>
Buffer<T> uploaded(const std::vector<T>& values) {
  Buffer<T> buffer(static_cast<std::int64_t>(values.size()));
  buffer.upload(values);
  return buffer;
}

/// Whether a call has written all of its output with numbers.
template <class T>
bool all_finite(const Buffer<T>& buffer) {
  for (const T& value : buffer.download())
    if (!std::isfinite(cottention::to_double(value))) return false;
  return true;
}

}  // namespace bench
