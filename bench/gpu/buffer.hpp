// Device memory with random numbers in it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <cottention/device/convert.cuh>
#include <cottention/device/launch.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/element.hpp>

#include "machine.hpp"

namespace bench {

/// Uniform in [-1, 1): the finaliser of MurmurHash3 over the index.
__host__ __device__ inline float random_value(std::uint32_t at, std::uint32_t seed) {
  std::uint32_t x = at + seed * 0x9e3779b9u;
  x ^= x >> 16;
  x *= 0x85ebca6bu;
  x ^= x >> 13;
  x *= 0xc2b2ae35u;
  x ^= x >> 16;
  return static_cast<float>(x >> 8) * 0x1p-23f - 1.0f;
}

/// Fills memory with random values.
template <cottention::Element T>
struct Fill {
  struct Params {
    T* out;
    std::int64_t count;
    std::uint32_t seed;
  };
  struct Storage {};
  static constexpr int threads = 256, min_blocks_per_sm = 1;
  static constexpr int each = 16;  // elements of a thread

  static __device__ void run(const Params& params, Storage&) {
    namespace device = cottention::device;
    for (int i = 0; i < each; ++i) {
      const std::int64_t at = (std::int64_t{device::block_x()} * each + i) * threads + device::thread_index();
      if (at >= params.count) return;
      const float value = random_value(static_cast<std::uint32_t>(at), params.seed);
      device::store_global(params.out + at, device::narrow<T>(static_cast<cottention::Accumulate<T>>(value)));
    }
  }
};

/// Each thread says whether all that it looked at are numbers.
template <cottention::Element T>
struct FindNumbers {
  struct Params {
    const T* in;
    std::int64_t count;
    unsigned char* numbers;
  };
  struct Storage {};
  static constexpr int threads = 256, min_blocks_per_sm = 1;
  static constexpr int each = 1024;  // elements of a thread: what is read back is small

  static __device__ void run(const Params& params, Storage&) {
    namespace device = cottention::device;
    bool numbers = true;
    for (int i = 0; i < each; ++i) {
      const std::int64_t at = (std::int64_t{device::block_x()} * each + i) * threads + device::thread_index();
      if (at >= params.count) break;
      const cottention::Accumulate<T> value = device::widen(device::load_global(params.in + at));
      numbers = numbers && value - value == 0;  // not of an infinity, nor of what is no number
    }
    device::store_global(params.numbers + std::int64_t{device::block_x()} * threads + device::thread_index(),
                         static_cast<unsigned char>(numbers));
  }
};

/// What is not asked of a device of this size.
struct OutOfMemory : std::runtime_error {
  explicit OutOfMemory(std::size_t bytes)
      : std::runtime_error("does not fit: no room for another " + std::to_string(bytes >> 20) + " MiB") {}
};

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::int64_t count) : count_(count) {
    if (count == 0) return;
    if (const cudaError_t error = cudaMalloc(&data_, bytes()); error == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();  // whoever asks next would take it for theirs
      throw OutOfMemory(bytes());
    } else {
      require_success(error, "cudaMalloc");
    }
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

/// Scratch memory of as many bytes as the library asks for.
inline Buffer<unsigned char> scratch_of(std::size_t bytes) {
  return Buffer<unsigned char>(static_cast<std::int64_t>(bytes));
}

template <class... T>
double bytes_of(const Buffer<T>&... buffers) {
  return (static_cast<double>(buffers.bytes()) + ...);
}

/// Where `sequences` begin on an axis of `tokens`, and where the last ends: from about a third to five thirds
/// of the mean length, the same in every run.
inline std::vector<std::int64_t> uneven_offsets(std::int64_t sequences, std::int64_t tokens) {
  const auto length = [](std::int64_t i) {
    return 1.0 + 0.66 * static_cast<double>(random_value(static_cast<std::uint32_t>(i), 6));
  };
  double total = 0, sum = 0;
  for (std::int64_t i = 0; i < sequences; ++i) total += length(i);
  std::vector<std::int64_t> offsets;
  for (std::int64_t i = 0; i < sequences; ++i) {
    offsets.push_back(static_cast<std::int64_t>(sum / total * static_cast<double>(tokens)));
    sum += length(i);
  }
  offsets.push_back(tokens);
  return offsets;
}

/// Whether a call has written all of its output with numbers.
template <class T>
bool all_finite(const Buffer<T>& buffer) {
  using Kernel = FindNumbers<T>;
  constexpr std::int64_t block = Kernel::threads * Kernel::each;
  const auto count = static_cast<std::int64_t>(buffer.bytes() / sizeof(T));
  const std::int64_t blocks = (count + block - 1) / block;
  const Buffer<unsigned char> numbers(blocks * Kernel::threads);
  require_success(cottention::device::prepare<Kernel>(), "prepare");
  require_success(
      cottention::device::launch<Kernel>({blocks}, {buffer.data(), count, numbers.data()}, nullptr),
      "launch");
  const std::vector<unsigned char> found = numbers.download();
  return std::all_of(found.begin(), found.end(), [](unsigned char number) { return number == 1; });
}

}  // namespace bench
