// The entry of a kernel on the device. A kernel is a struct:
//
//     struct Kernel {
//       struct Params;                                     // trivially copyable, passed by value
//       struct Storage;                                    // its shared memory, uninitialised
//       static constexpr int threads;                      // of a block, a multiple of 32
//       static constexpr int min_blocks_per_sm;            // for which registers are to leave room
//       static constexpr bool needs_sm90a = true;             // if it is written for sm_90a alone
//       __device__ static void run(const Params&, Storage&);  // scope: block
//     };
#pragma once

#if !defined(__CUDACC__)
#error \
    "cottention: headers named .cuh hold CUDA code, and this source is compiled as C++. Remedy: name it .cu and compile it with \
nvcc or clang++, or include <cottention/cpu.hpp>, which needs no CUDA."
#include <stopped_by_the_error_above>
#endif

#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>

namespace cottention::device {

/// Blocks in each direction: x up to 2^31 - 1, y and z up to 65,535.
struct Grid {
  std::int64_t x = 1, y = 1, z = 1;
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ == 900 || (__CUDA_ARCH__ >= 1000 && __CUDA_ARCH__ < 1200)
inline constexpr std::size_t shared_bytes_per_multiprocessor = 228 * 1024;
#elif __CUDA_ARCH__ == 800
inline constexpr std::size_t shared_bytes_per_multiprocessor = 164 * 1024;
#else
inline constexpr std::size_t shared_bytes_per_multiprocessor = 100 * 1024;
#endif

/// The second argument of __launch_bounds__: as many blocks as the kernel asks for, or as the shared memory
/// of a multiprocessor holds, where that is fewer: room in registers for more would be of no use. The system
/// takes 1,024 bytes of shared memory for each block. CUDA C++ Programming Guide, "Technical Specifications
/// per Compute Capability"; 8.7, which has as much as 8.0, counts as one with 100 KiB, since the code that
/// nvcc makes for 8.6 to 8.9 needs the same registers.
template <class Kernel>
inline constexpr int resident_blocks = [] {
  constexpr std::size_t fit = shared_bytes_per_multiprocessor / (sizeof(typename Kernel::Storage) + 1024);
  constexpr std::size_t asked = Kernel::min_blocks_per_sm;
  return static_cast<int>(fit >= asked ? asked : fit > 0 ? fit : 1);
}();

/// Whether a kernel is of instructions that only code for sm_90a has.
template <class Kernel>
inline constexpr bool needs_sm90a = requires {
  requires Kernel::needs_sm90a;
};

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
inline constexpr bool is_sm90a = true;
#else
inline constexpr bool is_sm90a = false;
#endif

/// The one entry of every kernel. Shared memory starts at a multiple of 1,024 bytes, the repeat of TMA's
/// widest swizzle (swizzle.cuh). Compiled for less than sm_80, which lacks the kernels' instructions, the
/// entry is empty, so that a build that includes such an architecture compiles; prepare() (launch.cuh)
/// refuses it. Kernels of sm_90a are empty elsewhere, too, and have static shared memory there, by which
/// prepare() knows them.
template <class Kernel>
__global__ void __launch_bounds__(Kernel::threads, resident_blocks<Kernel>)
    entry(const __grid_constant__ typename Kernel::Params params) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  if constexpr (is_sm90a || !needs_sm90a<Kernel>) {
    extern __shared__ __align__(1024) unsigned char shared_memory[];
    Kernel::run(params, *reinterpret_cast<typename Kernel::Storage*>(shared_memory));
  } else {
    __shared__ int mark;
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(&mark))),
                 "r"(0));
  }
#endif
}

#if !defined(__CUDACC_RTC__)  // what is compiled at run time is launched by the driver API

/// Launches a kernel by its entry; the error is the runtime's.
template <class Kernel>
cudaError_t enqueue(void (*kernel_entry)(typename Kernel::Params), Grid grid,
                    const typename Kernel::Params& params, cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.gridDim =
      dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z));
  config.blockDim = dim3(Kernel::threads);
  config.dynamicSmemBytes = sizeof(typename Kernel::Storage);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel_entry, params);
}

#endif

}  // namespace cottention::device
