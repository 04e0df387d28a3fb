// From the host to a kernel (entry.cuh).
#pragma once

#include <cottention/host_only.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <cuda_runtime.h>

#include <cottention/device/entry.cuh>
#include <cottention/device/runtime.cuh>

namespace cottention::device {

/// A kernel's entry, and the contexts in which it is prepared. Entries are functions of a translation unit
/// (nvcc -static-global-template-stub), and what is set for one holds for no other. So all units go by the
/// one entry in here. Not shared with other libraries of the program, whose runtime may be another.
template <class Kernel>
struct [[gnu::visibility("hidden")]] Prepared {
  static constexpr std::size_t slots = 16;
  decltype(&device::entry<Kernel>) entry;
  /// The place of a context is its number modulo `slots`; where two share one, they are prepared in turn.
  std::atomic<std::uint64_t> contexts[slots] = {};

  bool in(std::uint64_t context) const {
    return context != no_context && contexts[context % slots].load(std::memory_order_acquire) == context;
  }
  void add(std::uint64_t context) { contexts[context % slots].store(context, std::memory_order_release); }

  static Prepared instance;
};
template <class Kernel>
constinit inline Prepared<Kernel> Prepared<Kernel>::instance{&device::entry<Kernel>};

/// Finds the kernel's code for the current device and lets it have its shared memory. Launches nothing, so
/// every kernel of a call can be prepared before the first is launched. Asks the runtime once for each
/// context; a device that has been reset has a new one. cudaErrorNoKernelImageForDevice where the code that
/// would run is the empty one of less than sm_80.
template <class Kernel>
cudaError_t prepare() {
  static_assert(std::is_trivially_copyable_v<typename Kernel::Params>);
  static_assert(Kernel::threads % 32 == 0 && Kernel::threads >= 32 && Kernel::threads <= 1024);
  if (Prepared<Kernel>::instance.in(current_context())) return cudaSuccess;
  constexpr int bytes = static_cast<int>(sizeof(typename Kernel::Storage));
  constexpr int default_shared_bytes = 48 * 1024;
  const auto function = reinterpret_cast<const void*>(Prepared<Kernel>::instance.entry);
  cudaFuncAttributes attributes{};
  cudaError_t error = cudaFuncGetAttributes(&attributes, function);
  if (error == cudaSuccess &&
      (attributes.ptxVersion < min_compute_capability || attributes.binaryVersion < min_compute_capability))
    return cudaErrorNoKernelImageForDevice;
  if (error == cudaSuccess && bytes > default_shared_bytes)
    error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess)
    (void)cudaGetLastError();  // ours to report, not the next caller's to find
  else
    Prepared<Kernel>::instance.add(current_context());  // which the first call of a thread may have made
  return error;
}

/// Launches a prepared kernel.
template <class Kernel>
cudaError_t launch(Grid grid, const typename Kernel::Params& params, cudaStream_t stream) {
  const cudaError_t error = enqueue<Kernel>(Prepared<Kernel>::instance.entry, grid, params, stream);
  if (error != cudaSuccess) (void)cudaGetLastError();
  return error;
}

}  // namespace cottention::device
