// The launches of one call.
#pragma once

#include <cottention/device/launch.cuh>
#include <cottention/device/runtime.cuh>
#include <cottention/status.hpp>

namespace cottention::host {

/// Launches one kernel after another until one is refused. All of a call's kernels are prepared before the
/// first is launched.
class Launches {
 public:
  Launches(const device::Properties& device, cudaStream_t stream) : device_(device), stream_(stream) {}

  /// Finds a kernel's code and sees that the device has room for its shared memory.
  template <class Kernel>
  void prepare() {
    if (!status_) return;
    constexpr int bytes = static_cast<int>(sizeof(typename Kernel::Storage));
    if (bytes > device_.shared_bytes_per_block)
      status_ = CallStatus::failure(
          StatusCode::unsupported,
          "device: has %d bytes of shared memory for a thread block, and this tiling's kernels need %d",
          device_.shared_bytes_per_block, bytes);
    else if (const cudaError_t error = device::prepare<Kernel>(); error != cudaSuccess)
      status_ = error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction
                    ? device::no_code_for(device_.compute_capability)
                    : device::status_of(error, "kernel preparation");
  }

  template <class Kernel>
  void launch(device::Grid grid, const typename Kernel::Params& params) {
    if (status_)
      status_ = device::status_of(device::launch<Kernel>(grid, params, stream_), "cudaLaunchKernelEx");
  }

  const CallStatus& status() const { return status_; }

 private:
  const device::Properties& device_;
  cudaStream_t stream_;
  CallStatus status_;
};

}  // namespace cottention::host
