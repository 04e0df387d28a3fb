// Cosine attention on NVIDIA GPUs: the forward pass over whole sequences.
#pragma once

#include <cottention/requirements.hpp>

#include <cottention/host_only.hpp>

#include <cstddef>

#include <cottention/choice.hpp>
#include <cottention/host/forward.cuh>
#include <cottention/host/validation.hpp>
#include <cottention/validation.hpp>

namespace cottention {

// Without a Tiling, a call takes the library's; with one, that of the caller, which changes the speed, and by
// the order of sums the last bits.

/// Bytes of scratch that `forward` needs on the calling thread's current device, which may be 0; pointers
/// need not be set yet. Anything but ok has `bytes` 0, and names what of the shape or of `split` would be
/// refused or carries the number of CUDA's error, as where there is no device.
template <AnyProblem P, Tiling... tiling>
[[nodiscard]] CallStatus workspace_bytes(const ForwardArguments<typename P::element>& args,
                                         std::size_t& bytes, Split split = {}) {
  host::require_device_tiling<tiling...>();
  bytes = 0;
  if (CallStatus status = host::validate_extents<P>(args, split); !status) return status;
  device::Properties device;
  if (CallStatus status = device::current_device(device); !status) return status;
  const host::Workload load = host::workload(args, split);
  if (CallStatus status = host::validate_engine<tiling...>(load, device); !status) return status;
  bytes = host::select<host::ForwardRows<P, tiling...>>(load, device, [&]<Tiling taken>() {
    return host::ForwardCall<P, taken>(args, split, device).workspace_bytes();
  });
  return {};
}
/// The same as a number, 0 where the call would be refused.
template <AnyProblem P, Tiling... tiling>
std::size_t workspace_bytes(const ForwardArguments<typename P::element>& args, Split split = {}) {
  std::size_t bytes = 0;
  return workspace_bytes<P, tiling...>(args, bytes, split) ? bytes : 0;
}

/// What `forward` will run on the calling thread's current device. Launches nothing; of pointers it counts
/// only whether they are null. Anything but ok leaves `chosen` as if nothing ran, and names what
/// workspace_bytes would, or shared memory that the device has not.
template <AnyProblem P, Tiling... tiling>
[[nodiscard]] CallStatus choice(const ForwardArguments<typename P::element>& args, ForwardChoice& chosen,
                                Split split = {}) {
  host::require_device_tiling<tiling...>();
  chosen = {};
  if (CallStatus status = host::validate_extents<P>(args, split); !status) return status;
  device::Properties device;
  if (CallStatus status = device::current_device(device); !status) return status;
  const host::Workload load = host::workload(args, split);
  if (CallStatus status = host::validate_engine<tiling...>(load, device); !status) return status;
  return host::select<host::ForwardRows<P, tiling...>>(load, device, [&]<Tiling taken>() {
    return host::describe(host::ForwardCall<P, taken>(args, split, device), device, chosen);
  });
}
/// The same as a value, as if nothing ran where the form above is not ok.
template <AnyProblem P, Tiling... tiling>
ForwardChoice choice(const ForwardArguments<typename P::element>& args, Split split = {}) {
  ForwardChoice chosen;
  return choice<P, tiling...>(args, chosen, split) ? chosen : ForwardChoice{};
}

/// Cosine attention over whole sequences, enqueued on `stream` of the current device:
///
///     o_i = sum over visible j of (norm(q_i) . norm(k_j)) w v_j
///
/// All pointers are to memory that the device can reach. Shapes, layouts and optional arguments:
/// ForwardArguments; what CUDA asks beside: host/validation.hpp. `workspace` holds at least
/// workspace_bytes<P>(args, split) bytes, aligned to 256, and is in use until the stream is past the call.
/// Allocates nothing, waits for nothing, and may be captured in a graph. Equal calls give equal bits; under
/// Plan::batch_invariant the bits of a sequence depend neither on the rest of the batch nor on the number of
/// multiprocessors.
///
/// Anything but ok names the argument, its value and the rule; then nothing has been launched, unless the
/// code is cuda_error.
template <AnyProblem P, Tiling... tiling>
[[nodiscard]] CallStatus forward(const ForwardArguments<typename P::element>& args, Workspace workspace,
                                 cudaStream_t stream, Split split = {}) {
  host::require_device_tiling<tiling...>();
  if (CallStatus status = host::validate_call<P>(args, split); !status) return status;
  device::Properties device;
  if (CallStatus status = device::current_device(device); !status) return status;
  const host::Workload load = host::workload(args, split);
  if (CallStatus status = host::validate_engine<tiling...>(load, device); !status) return status;
  return host::select<host::ForwardRows<P, tiling...>>(load, device, [&]<Tiling taken>() {
    return host::run(host::ForwardCall<P, taken>(args, split, device), device, workspace, stream);
  });
}

}  // namespace cottention
