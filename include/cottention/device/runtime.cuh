// What the host asks of the CUDA runtime.
#pragma once

#include <initializer_list>

#include <cuda_runtime.h>

#include <cottention/status.hpp>

namespace cottention::device {

struct Properties {
  int compute_capability = 0;  ///< 10 major + minor: 80, 90, 100
  int multiprocessors = 0;
  int shared_bytes_per_block = 0;  ///< the most that a block may ask for
};

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

/// The calling thread's current device.
inline CallStatus current_device(Properties& properties) {
  int device = 0, capability_major = 0, capability_minor = 0;
  struct Attribute {
    cudaDeviceAttr name;
    int* value;
  };
  cudaError_t error = cudaGetDevice(&device);
  for (const Attribute& a :
       {Attribute{cudaDevAttrComputeCapabilityMajor, &capability_major},
        Attribute{cudaDevAttrComputeCapabilityMinor, &capability_minor},
        Attribute{cudaDevAttrMultiProcessorCount, &properties.multiprocessors},
        Attribute{cudaDevAttrMaxSharedMemoryPerBlockOptin, &properties.shared_bytes_per_block}})
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(a.value, a.name, device);
  if (error != cudaSuccess) (void)cudaGetLastError();
  properties.compute_capability = 10 * capability_major + capability_minor;
  return status_of(error, "cudaDeviceGetAttribute");
}

}  // namespace cottention::device
