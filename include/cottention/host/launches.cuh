// The launches of one call.
//
// A call is a class that has the arguments, the splits and the rows of its tables, and with them
//
//     kernels(workspace, each)   calls `each` with every kernel that the call launches, in their order: the
//                                kernel as a template argument, its grid and a function that makes its Params
//     used_bytes()               scratch memory that these kernels use
//     choice()                   what they are, all but their number
#pragma once

#include <concepts>
#include <cstddef>

#include <cottention/arguments.hpp>
#include <cottention/device/launch.cuh>
#include <cottention/device/runtime.cuh>
#include <cottention/host/tensor_maps.cuh>
#include <cottention/host/validation.hpp>
#include <cottention/status.hpp>

namespace cottention::host {

/// Whether the device has room for a kernel's shared memory.
template <class Kernel>
bool has_room(const device::Properties& device) {
  return sizeof(typename Kernel::Storage) <= static_cast<std::size_t>(device.shared_bytes_per_block);
}

/// Launches one kernel after another until one is refused. All of a call's kernels are prepared before the
/// first is launched.
class Launches {
 public:
  Launches(const device::Properties& device, cudaStream_t stream) : device_(device), stream_(stream) {}

  /// Sees that the device has room for a kernel's shared memory.
  template <class Kernel>
  void require_room() {
    if (!status_) return;
    if (!has_room<Kernel>(device_))
      status_ = CallStatus::failure(
          StatusCode::unsupported,
          "device: has %d bytes of shared memory for a thread block, and this tiling's kernels need %d",
          device_.shared_bytes_per_block, static_cast<int>(sizeof(typename Kernel::Storage)));
  }

  /// Finds a kernel's code, once there is room for it.
  template <class Kernel>
  void prepare() {
    require_room<Kernel>();
    if (!status_) return;
    if (const cudaError_t error = device::prepare<Kernel>(); error != cudaSuccess)
      status_ = error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction
                    ? device::no_code_for(device_.compute_capability)
                    : device::status_of(error, "kernel preparation");
  }

  template <class Kernel, class Params>
  void launch(device::Grid grid, const Params& params) {
    if constexpr (std::same_as<Params, typename Kernel::Params>) {
      enqueue<Kernel>(grid, params);
    } else {
      typename Kernel::Params completed;
      if (status_)
        status_ = device::status_of(complete<Kernel>(completed, params, grid.x), "cuTensorMapEncodeTiled");
      enqueue<Kernel>(grid, completed);
    }
  }

  const CallStatus& status() const { return status_; }

 private:
  template <class Kernel>
  void enqueue(device::Grid grid, const typename Kernel::Params& params) {
    if (status_)
      status_ = device::status_of(device::launch<Kernel>(grid, params, stream_), "cudaLaunchKernelEx");
  }

  const device::Properties& device_;
  cudaStream_t stream_;
  CallStatus status_;
};

/// How far `run` goes: until the code of all kernels is found, or they are launched.
enum class Until { prepared, launched };

/// Enqueues a call, whose arguments are valid.
template <class Call>
CallStatus run(const Call& call, const device::Properties& device, Workspace workspace, cudaStream_t stream,
               Until until = Until::launched) {
  if (CallStatus status = validate_workspace(workspace, call.used_bytes()); !status) return status;
  Launches launches(device, stream);
  bool prepared = false;
  const auto each = [&]<class Kernel>(device::Grid grid, const auto& params) {
    if (prepared)
      launches.template launch<Kernel>(grid, params());
    else
      launches.template prepare<Kernel>();
  };
  call.kernels(workspace.data, each);
  if (!launches.status() || until == Until::prepared) return launches.status();
  prepared = true;
  call.kernels(workspace.data, each);
  return launches.status();
}

/// Says what `run` launches. Refuses what the device has no room for.
template <class Call, class Choice>
CallStatus describe(const Call& call, const device::Properties& device, Choice& chosen) {
  Launches launches(device, nullptr);
  Choice choice = call.choice();
  call.kernels(nullptr, [&]<class Kernel>(device::Grid, const auto&) {
    launches.template require_room<Kernel>();
    ++choice.launches;
  });
  if (launches.status()) chosen = choice;
  return launches.status();
}

}  // namespace cottention::host
