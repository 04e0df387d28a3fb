// Cosine attention on NVIDIA GPUs: all gradients.
#pragma once

#include <cottention/requirements.hpp>

#include <cottention/host_only.hpp>

#include <cstddef>

#include <cottention/host/extents.hpp>
#include <cottention/host/gradients.cuh>

namespace cottention {
/// Bytes of scratch that `backward` needs on the calling thread's current device, which may be 0; pointers
/// need not be set yet. With a Tiling: that of the call. Anything but ok has `bytes` 0, and names what of the
/// shape or of `split` would be refused or carries the number of CUDA's error, as where there is no device.
template <AnyProblem P, Tiling tiling>
[[nodiscard]] CallStatus workspace_bytes(const BackwardArguments<typename P::element>& args,
                                         std::size_t& bytes, Split split = {}) {
  bytes = 0;
  if (CallStatus status = host::validate_extents<P>(args, split); !status) return status;
  device::Properties device;
  if (CallStatus status = device::current_device(device); !status) return status;
  bytes = host::Gradients<P, host::GivenTiling<tiling>>(args, split, device).workspace_bytes();
  return {};
}
template <AnyProblem P>
[[nodiscard]] CallStatus workspace_bytes(const BackwardArguments<typename P::element>& args,
                                         std::size_t& bytes, Split split = {}) {
  bytes = 0;
  if (CallStatus status = host::validate_extents<P>(args, split); !status) return status;
  device::Properties device;
  if (CallStatus status = device::current_device(device); !status) return status;
  bytes = host::Gradients<P, host::TunedTiling>(args, split, device).workspace_bytes();
  return {};
}
/// The same as a number, 0 where the call would be refused.
template <AnyProblem P, Tiling... tiling>
std::size_t workspace_bytes(const BackwardArguments<typename P::element>& args, Split split = {}) {
  std::size_t bytes = 0;
  return workspace_bytes<P, tiling...>(args, bytes, split) ? bytes : 0;
}

/// Gradients of a loss with respect to q, k, v, scale_logit and the initial state, from those with respect to
/// o and the final state (docs/math.md), enqueued on `stream` of the current device. Needs nothing that the
/// forward call would have to keep; `final_h` saves time where all gradients are made together.
///
/// Shapes, layouts and optional arguments: BackwardArguments; all else as for `forward`.
template <AnyProblem P>
[[nodiscard]] CallStatus backward(const BackwardArguments<typename P::element>& args, Workspace workspace,
                                  cudaStream_t stream, Split split = {}) {
  if (CallStatus status = host::validate_call<P>(args, split); !status) return status;
  device::Properties device;
  if (CallStatus status = device::current_device(device); !status) return status;
  return host::Gradients<P, host::TunedTiling>(args, split, device).run(workspace, stream);
}

/// The same with a Tiling of the caller's, for the kernels of each gradient; none are made together. It
/// changes the speed, and by the order of sums the last bits.
template <AnyProblem P, Tiling tiling>
[[nodiscard]] CallStatus backward(const BackwardArguments<typename P::element>& args, Workspace workspace,
                                  cudaStream_t stream, Split split = {}) {
  if (CallStatus status = host::validate_call<P>(args, split); !status) return status;
  device::Properties device;
  if (CallStatus status = device::current_device(device); !status) return status;
  return host::Gradients<P, host::GivenTiling<tiling>>(args, split, device).run(workspace, stream);
}

}  // namespace cottention
