// Preparing and launching a kernel (entry.cuh) from the host.
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

/// A kernel's entry, and the contexts in which the kernel is prepared. nvcc gives every translation unit an
/// entry of its own (-static-global-template-stub), and an attribute set for one holds for no other; so all
/// translation units launch the one entry in `instance`. Its visibility is hidden because other libraries of
/// the program may be linked with another runtime.
template <class Kernel>
struct [[gnu::visibility("hidden")]] Prepared {
  static constexpr std::size_t entries = 16;
  decltype(&device::entry<Kernel>) entry;
  /// The entry of a context is its number modulo `entries`; two contexts of one entry replace each other
  /// there, and the kernel is prepared again, which costs time alone.
  std::atomic<std::uint64_t> contexts[entries] = {};
  std::atomic<std::uint64_t> lacking[entries] = {};  // likewise of contexts that have no code for the kernel

  bool in(std::uint64_t context) const { return holds(contexts, context); }
  void add(std::uint64_t context) { contexts[context % entries].store(context, std::memory_order_release); }
  bool lacks(std::uint64_t context) const { return holds(lacking, context); }
  void add_lacking(std::uint64_t context) {
    lacking[context % entries].store(context, std::memory_order_release);
  }

  static Prepared instance;

 private:
  static bool holds(const std::atomic<std::uint64_t>(&of)[entries], std::uint64_t context) {
    return context != no_context && of[context % entries].load(std::memory_order_acquire) == context;
  }
};
template <class Kernel>
constinit inline Prepared<Kernel> Prepared<Kernel>::instance{&device::entry<Kernel>};

/// Finds the kernel's code for the current device and raises the kernel's limit of shared memory. It launches
/// nothing, so every kernel of a call can be prepared before the first is launched. The runtime is asked once
/// for each context; a device that has been reset has a new context. cudaErrorNoKernelImageForDevice where
/// the code that would run is the empty one of less than sm_80 or, for a kernel of sm_90a, of other code.
template <class Kernel>
cudaError_t prepare() {
  static_assert(std::is_trivially_copyable_v<typename Kernel::Params>);
  static_assert(Kernel::threads % 32 == 0 && Kernel::threads >= 32 && Kernel::threads <= 1024);
  if (Prepared<Kernel>::instance.in(current_context())) return cudaSuccess;
  constexpr int bytes = static_cast<int>(sizeof(typename Kernel::Storage));
  constexpr int default_shared_bytes = 48 * 1024;  // without cudaFuncSetAttribute; CUDA C++ Programming Guide
  const auto function = reinterpret_cast<const void*>(Prepared<Kernel>::instance.entry);
  cudaFuncAttributes attributes{};
  cudaError_t error = cudaFuncGetAttributes(&attributes, function);
  if (error == cudaSuccess &&
      (attributes.ptxVersion < min_compute_capability || attributes.binaryVersion < min_compute_capability ||
       (needs_sm90a<Kernel> && attributes.sharedSizeBytes > 0)))
    return cudaErrorNoKernelImageForDevice;
  if (error == cudaSuccess && bytes > default_shared_bytes)
    error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess)
    (void)cudaGetLastError();  // the error is returned here; the next call must not find it too
  else
    Prepared<Kernel>::instance.add(current_context());  // asked again: the calls above may have made it
  return error;
}

/// Whether the current context has code for a kernel of sm_90a. The runtime is asked once for each context.
template <class Kernel>
bool has_code() {
  Prepared<Kernel>& prepared = Prepared<Kernel>::instance;
  if (prepared.lacks(current_context())) return false;
  const cudaError_t error = prepare<Kernel>();
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction)
    prepared.add_lacking(current_context());  // another error may pass
  return error == cudaSuccess;
}

/// Launches a prepared kernel.
template <class Kernel>
cudaError_t launch(Grid grid, const typename Kernel::Params& params, cudaStream_t stream) {
  const cudaError_t error = enqueue<Kernel>(Prepared<Kernel>::instance.entry, grid, params, stream);
  if (error != cudaSuccess) (void)cudaGetLastError();
  return error;
}

}  // namespace cottention::device
