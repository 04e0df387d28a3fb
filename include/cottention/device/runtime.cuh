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

/// The runtime's refusal as a Status; ok for cudaSuccess.
inline Status status_of(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return {};
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction)
    return Status::failure(StatusCode::unsupported,
                           "device: no code for its architecture is compiled in. Remedy: add it to -arch or "
                           "CMAKE_CUDA_ARCHITECTURES");
  Status status = Status::failure(StatusCode::cuda_error, "%s: %s", call, cudaGetErrorString(error));
  status.cuda_error = static_cast<int>(error);
  return status;
}

/// The calling thread's current device.
inline Status current_device(Properties& properties) {
  int device = 0, major = 0, minor = 0;
  struct Attribute {
    cudaDeviceAttr name;
    int* value;
  };
  cudaError_t error = cudaGetDevice(&device);
  for (const Attribute& a :
       {Attribute{cudaDevAttrComputeCapabilityMajor, &major},
        Attribute{cudaDevAttrComputeCapabilityMinor, &minor},
        Attribute{cudaDevAttrMultiProcessorCount, &properties.multiprocessors},
        Attribute{cudaDevAttrMaxSharedMemoryPerBlockOptin, &properties.shared_bytes_per_block}})
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(a.value, a.name, device);
  if (error != cudaSuccess) (void)cudaGetLastError();
  properties.compute_capability = 10 * major + minor;
  return status_of(error, "cudaDeviceGetAttribute");
}

}  // namespace cottention::device
