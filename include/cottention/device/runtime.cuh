// Queries of the CUDA runtime by the host: the current device and context.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include <cuda.h>
#include <cuda_runtime.h>

#include <cottention/status.hpp>

namespace cottention::device {

/// 10 major + minor of the oldest devices that kernels run on: cp.async, and mma.sync of bfloat16, tf32 and
/// fp64, are of sm_80 (PTX ISA).
inline constexpr int min_compute_capability = 80;

struct Properties {
  int compute_capability = 0;      ///< 10 major + minor: 80, 90, 100
  int multiprocessors = 0;         ///< of the whole device, in a green context too
  int shared_bytes_per_block = 0;  ///< the most that a block may ask for
};

/// The refusal of a device for which there is no code; `compute_capability` as in Properties.
inline CallStatus no_code_for(int compute_capability) {
  const int major = compute_capability / 10, minor = compute_capability % 10;
  const char* const features = compute_capability == 90 ? "a" : "";  // kernels on wgmma need those of 90a
  return CallStatus::failure(
      StatusCode::unsupported,
      "device: has compute capability %d.%d, and no code for 8.0 or above that it "
      "runs is compiled in. Remedy: "
      "CMAKE_CUDA_ARCHITECTURES %d%d%s, or nvcc -arch=sm_%d%d%s, whose default is less",
      major, minor, major, minor, features, major, minor, features);
}

/// The runtime's refusal as a CallStatus; ok for cudaSuccess.
inline CallStatus status_of(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return {};
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction)
    return CallStatus::failure(
        StatusCode::unsupported,
        "device: no code for its architecture is compiled in. Remedy: add it to -arch or "
        "CMAKE_CUDA_ARCHITECTURES");
  CallStatus status = CallStatus::failure(StatusCode::cuda_error, "%s: %s", call, cudaGetErrorString(error));
  status.cuda_error = static_cast<int>(error);
  return status;
}

/// status_of what the runtime has just returned, so that its next call does not report the error again.
inline CallStatus take_error(cudaError_t error, const char* call) {
  if (error != cudaSuccess) (void)cudaGetLastError();
  return status_of(error, call);
}

/// Enqueues zeros for `bytes` of device memory.
inline CallStatus set_zero(void* data, std::size_t bytes, cudaStream_t stream) {
  return take_error(cudaMemsetAsync(data, 0, bytes, stream), "cudaMemsetAsync");
}

inline constexpr std::uint64_t no_context = 0;

/// The number of the calling thread's current context, which no other context of the process has or will
/// have; no_context where there is none yet, or the driver does not tell. CUDA driver API: cuCtxGetId.
inline std::uint64_t current_context() {
  using GetId = decltype(&cuCtxGetId);
  static const GetId get_id = [] {
    constexpr unsigned first_version = 12000;
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuCtxGetId", &function, first_version, cudaEnableDefault, &found);
    if (error != cudaSuccess) (void)cudaGetLastError();
    return error == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<GetId>(function)
                                                                        : nullptr;
  }();
  unsigned long long number = no_context;
  if (get_id == nullptr || get_id(nullptr, &number) != CUDA_SUCCESS) return no_context;
  return number;
}

namespace detail {

/// The properties of devices 0 to cached_devices - 1, packed in 64 bits; 0: not queried yet. Properties of a
/// device do not change while the process runs. Devices with higher numbers are queried in every call.
inline constexpr int cached_devices = 64;
inline std::atomic<std::uint64_t> cached[cached_devices];

inline std::uint64_t packed(const Properties& p) {
  return static_cast<std::uint64_t>(p.compute_capability) << 48 |
         static_cast<std::uint64_t>(p.multiprocessors) << 32 |
         static_cast<std::uint64_t>(p.shared_bytes_per_block);
}
inline Properties unpacked(std::uint64_t bits) {
  return {.compute_capability = static_cast<int>(bits >> 48),
          .multiprocessors = static_cast<int>(bits >> 32 & 0xffff),
          .shared_bytes_per_block = static_cast<int>(bits & 0xffffffff)};
}

inline cudaError_t query_properties(int device, Properties& properties) {
  int major = 0, minor = 0;
  struct Attribute {
    cudaDeviceAttr name;
    int* value;
  };
  cudaError_t error = cudaSuccess;
  for (const Attribute& a :
       {Attribute{cudaDevAttrComputeCapabilityMajor, &major},
        Attribute{cudaDevAttrComputeCapabilityMinor, &minor},
        Attribute{cudaDevAttrMultiProcessorCount, &properties.multiprocessors},
        Attribute{cudaDevAttrMaxSharedMemoryPerBlockOptin, &properties.shared_bytes_per_block}})
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(a.value, a.name, device);
  properties.compute_capability = 10 * major + minor;
  return error;
}

}  // namespace detail

/// The properties of the calling thread's current device; unsupported where kernels do not run on it. The
/// runtime is asked for a device's properties once.
inline CallStatus current_device(Properties& properties) {
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  const bool cacheable = error == cudaSuccess && device < detail::cached_devices;
  const std::uint64_t bits =
      cacheable ? detail::cached[device].load(std::memory_order_relaxed) : std::uint64_t{0};
  if (bits != 0) {
    properties = detail::unpacked(bits);
  } else {
    if (error == cudaSuccess) error = detail::query_properties(device, properties);
    if (error != cudaSuccess) return take_error(error, "cudaDeviceGetAttribute");
    if (cacheable) detail::cached[device].store(detail::packed(properties), std::memory_order_relaxed);
  }
  if (properties.compute_capability < min_compute_capability)
    return CallStatus::failure(StatusCode::unsupported,
                               "device: has compute capability %d.%d: must be at least %d.%d",
                               properties.compute_capability / 10, properties.compute_capability % 10,
                               min_compute_capability / 10, min_compute_capability % 10);
  return {};
}

}  // namespace cottention::device
