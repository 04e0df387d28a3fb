// Cosine attention on NVIDIA GPUs: all gradients.
#pragma once

#include <cottention/requirements.hpp>

#include <cottention/host_only.hpp>

#include <cstddef>

#include <cottention/choice.hpp>
#include <cottention/host/gradients.cuh>
#include <cottention/host/validation.hpp>

namespace cottention {

// With a Tiling of the caller's, the kernels of each gradient have that, and none are made together. It
// changes the speed, and by the order of sums the last bits.

/// Bytes of scratch that `backward` needs on the calling thread's current device, which may be 0; pointers
/// need not be set yet. Anything but ok has `bytes` 0, and names what of the shape or of `split` would be
/// refused or carries the number of CUDA's error, as where there is no device.
template <AnyProblem P, Tiling... tiling>
[[nodiscard]] CallStatus workspace_bytes(const BackwardArguments<typename P::element>& args,
                                         std::size_t& bytes, Split split = {}) {
  host::require_device_tiling<tiling...>();
  bytes = 0;
  if (CallStatus status = host::validate_extents<P>(args, split); !status) return status;
  device::Properties device;
  if (CallStatus status = device::current_device(device); !status) return status;
  if (CallStatus status = host::validate_engine<tiling...>(host::workload(args, split), device); !status)
    return status;
  bytes = host::BackwardCall<P, tiling...>(args, split, device).workspace_bytes();
  return {};
}
/// The same as a number, 0 where the call would be refused.
template <AnyProblem P, Tiling... tiling>
std::size_t workspace_bytes(const BackwardArguments<typename P::element>& args, Split split = {}) {
  std::size_t bytes = 0;
  return workspace_bytes<P, tiling...>(args, bytes, split) ? bytes : 0;
}

/// What `backward` will run on the calling thread's current device: otherwise as for `forward`.
template <AnyProblem P, Tiling... tiling>
[[nodiscard]] CallStatus choice(const BackwardArguments<typename P::element>& args, BackwardChoice& chosen,
                                Split split = {}) {
  host::require_device_tiling<tiling...>();
  chosen = {};
  if (CallStatus status = host::validate_extents<P>(args, split); !status) return status;
  device::Properties device;
  if (CallStatus status = device::current_device(device); !status) return status;
  if (CallStatus status = host::validate_engine<tiling...>(host::workload(args, split), device); !status)
    return status;
  return host::describe(host::BackwardCall<P, tiling...>(args, split, device), device, chosen);
}
/// The same as a value, as if nothing ran where the form above is not ok.
template <AnyProblem P, Tiling... tiling>
BackwardChoice choice(const BackwardArguments<typename P::element>& args, Split split = {}) {
  BackwardChoice chosen;
  return choice<P, tiling...>(args, chosen, split) ? chosen : BackwardChoice{};
}

/// Gradients of a loss with respect to q, k, v, scale_logit and the initial state, from those with respect to
/// o and the final state (docs/math.md), enqueued on `stream` of the current device. Needs nothing that the
/// forward call would have to keep; `final_h` saves time where all gradients are made together.
///
/// Shapes, layouts and optional arguments: BackwardArguments; all else as for `forward`.
template <AnyProblem P, Tiling... tiling>
[[nodiscard]] CallStatus backward(const BackwardArguments<typename P::element>& args, Workspace workspace,
                                  cudaStream_t stream, Split split = {}) {
  host::require_device_tiling<tiling...>();
  if (CallStatus status = host::validate_call<P>(args, split); !status) return status;
  device::Properties device;
  if (CallStatus status = device::current_device(device); !status) return status;
  if (CallStatus status = host::validate_engine<tiling...>(host::workload(args, split), device); !status)
    return status;
  return host::run(host::BackwardCall<P, tiling...>(args, split, device), device, workspace, stream);
}

}  // namespace cottention
