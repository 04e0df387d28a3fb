// From the host to a kernel. A kernel is a struct:
//
//     struct Kernel {
//       struct Params;                                     // trivially copyable, passed by value
//       struct Storage;                                    // its shared memory, uninitialised
//       static constexpr int threads;                      // of a block, a multiple of 32
//       static constexpr int blocks_per_multiprocessor;    // that registers must leave room for
//       __device__ static void run(const Params&, Storage&);
//     };
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <cuda_runtime.h>

namespace cottention::device {

/// Blocks in each direction: x up to 2^31 - 1, y and z up to 65,535.
struct Grid {
  std::int64_t x = 1, y = 1, z = 1;
};

/// The one entry of every kernel. Shared memory starts at a multiple of 1,024 bytes.
template <class Kernel>
__global__ void __launch_bounds__(Kernel::threads, Kernel::blocks_per_multiprocessor)
    entry(const __grid_constant__ typename Kernel::Params params) {
  extern __shared__ __align__(1024) unsigned char shared_memory[];
  Kernel::run(params, *reinterpret_cast<typename Kernel::Storage*>(shared_memory));
}

#if !defined(__CUDACC_RTC__)  // what is compiled at run time is launched by the driver API

/// Finds the kernel's code for the current device and lets it have its shared memory. Launches nothing, so
/// every kernel of a call can be prepared before the first is launched.
template <class Kernel>
cudaError_t prepare() {
  static_assert(std::is_trivially_copyable_v<typename Kernel::Params>);
  static_assert(Kernel::threads % 32 == 0 && Kernel::threads >= 32 && Kernel::threads <= 1024);
  const auto function = reinterpret_cast<const void*>(&entry<Kernel>);
  cudaFuncAttributes attributes{};
  if (const cudaError_t error = cudaFuncGetAttributes(&attributes, function); error != cudaSuccess) {
    (void)cudaGetLastError();  // ours to report, not the next caller's to find
    return error;
  }
  constexpr std::size_t without_asking = 48 * 1024;
  if (sizeof(typename Kernel::Storage) <= without_asking) return cudaSuccess;
  const cudaError_t error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                 static_cast<int>(sizeof(typename Kernel::Storage)));
  if (error != cudaSuccess) (void)cudaGetLastError();
  return error;
}

/// Launches a prepared kernel.
template <class Kernel>
cudaError_t launch(Grid grid, const typename Kernel::Params& params, cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.gridDim =
      dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z));
  config.blockDim = dim3(Kernel::threads);
  config.dynamicSmemBytes = sizeof(typename Kernel::Storage);
  config.stream = stream;
  const cudaError_t error = cudaLaunchKernelEx(&config, &entry<Kernel>, params);
  if (error != cudaSuccess) (void)cudaGetLastError();
  return error;
}

#endif

}  // namespace cottention::device
