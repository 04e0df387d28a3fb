// Decoding on NVIDIA GPUs: a few tokens for each of many sequences, whose states are updated in place.
#pragma once

#include <cottention/requirements.hpp>

#include <cottention/host_only.hpp>

#include <cstddef>

#include <cottention/choice.hpp>
#include <cottention/device/runtime.cuh>
#include <cottention/host/step.cuh>
#include <cottention/host/validation.hpp>
#include <cottention/validation.hpp>

namespace cottention {

/// Bytes of scratch that `step` needs: none. Anything but ok names what of the shape would be refused.
template <AnyProblem P>
[[nodiscard]] CallStatus workspace_bytes(const StepArguments<typename P::element>& args, std::size_t& bytes) {
  host::require_device_problem<P>();
  bytes = 0;
  return detail::validate_shape<P>(args.shape);
}
template <AnyProblem P>
std::size_t workspace_bytes(const StepArguments<typename P::element>&) {
  host::require_device_problem<P>();
  return 0;
}

/// What `step` will run on the calling thread's current device: otherwise as for `forward`.
template <AnyProblem P, Tiling... tiling>
[[nodiscard]] CallStatus choice(const StepArguments<typename P::element>& args, StepChoice& chosen) {
  host::require_device_problem<P>();
  host::require_device_tiling<tiling...>();
  chosen = {};
  if (CallStatus status = detail::validate_extents<P>(args); !status) return status;
  if (host::is_empty(args.shape)) return {};
  device::Properties device;
  if (CallStatus status = device::current_device(device); !status) return status;
  return host::select<host::StepRows<P, tiling...>>(args.shape, device, [&]<Tiling taken>() {
    const host::StepCall<P, taken> call(args);
    const CallStatus status = call.validate_extents();
    return status ? host::describe(call, device, chosen) : status;
  });
}
/// The same as a value, as if nothing ran where the form above is not ok.
template <AnyProblem P, Tiling... tiling>
StepChoice choice(const StepArguments<typename P::element>& args) {
  StepChoice chosen;
  return choice<P, tiling...>(args, chosen) ? chosen : StepChoice{};
}

/// The recurrence, token by token, for T new tokens of each lane, enqueued on `stream` of the current device:
///
///     count += 1;   h += norm(k) (w v)^T;   o = h^T norm(q)
///
/// All pointers are to memory that the device can reach. Shapes, slots and acceptance: StepArguments; what
/// CUDA asks beside, and what is not checked: host/validation.hpp. Counts must stay below 2^44: while
/// the call runs, the bits above serve it. `workspace` may be empty. Each state is read once and written
/// once, the latter unless none of its tokens is accepted. Allocates nothing, waits for nothing, and may be
/// captured in a graph. A lane's bits depend neither on the other lanes nor on the device nor on the tiling.
///
/// With a Tiling of the caller's, blocks are as that has them: kernel::Step says what it may be.
///
/// Anything but ok names the argument, its value and the rule; then nothing has been launched.
template <AnyProblem P, Tiling... tiling>
[[nodiscard]] CallStatus step(const StepArguments<typename P::element>& args, Workspace workspace,
                              cudaStream_t stream) {
  host::require_device_tiling<tiling...>();
  if (CallStatus status = host::validate_step<P>(args); !status) return status;
  if (CallStatus status = host::validate_workspace(workspace, workspace_bytes<P>(args)); !status)
    return status;
  if (host::is_empty(args.shape)) return {};
  device::Properties device;
  if (CallStatus status = device::current_device(device); !status) return status;
  return host::select<host::StepRows<P, tiling...>>(args.shape, device, [&]<Tiling taken>() {
    const host::StepCall<P, taken> call(args);
    const CallStatus status = call.validate_extents();
    return status ? host::run(call, device, workspace, stream) : status;
  });
}

}  // namespace cottention
