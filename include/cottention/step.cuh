// Decoding on NVIDIA GPUs: a few tokens for each of many sequences, whose states are updated in place.
#pragma once

#include <cottention/requirements.hpp>

#include <cottention/host_only.hpp>

#include <cstddef>
#include <cstdint>
#include <utility>

#include <cottention/device/runtime.cuh>
#include <cottention/host/launches.cuh>
#include <cottention/host/validation.hpp>
#include <cottention/kernel/step.cuh>
#include <cottention/tuning/step.cuh>
#include <cottention/validation.hpp>

namespace cottention {
namespace host {

/// Checks what the kernel counts in 32 bits, and what it keeps above a state's count.
template <class Kernel, class T>
CallStatus validate_step_extents(const StepArguments<T>& args) {
  using detail::number;
  const Shape& s = args.shape;
  constexpr std::int64_t most_readers = (std::int64_t{1} << 62) / Kernel::reader - 1;
  if (s.heads_kv * Kernel::v_tiles > most_readers)
    return CallStatus::failure(StatusCode::bad_shape,
                               "shape.heads_kv = %lld: must be at most %lld on a device", number(s.heads_kv),
                               number(most_readers / Kernel::v_tiles));
  if (s.batch * s.heads_kv * Kernel::v_tiles > max_grid_blocks)
    return CallStatus::failure(
        StatusCode::bad_shape, "shape.batch = %lld: must be at most %lld on a device with %lld key heads",
        number(s.batch), number(max_grid_blocks / Kernel::v_tiles / s.heads_kv), number(s.heads_kv));
  const std::int64_t rows_per_token = 1 + s.heads_q / s.heads_kv;
  if (s.seq_q > max_axis / rows_per_token)
    return CallStatus::failure(StatusCode::bad_shape, "shape.seq_q = %lld: must be at most %lld on a device",
                               number(s.seq_q), number(max_axis / rows_per_token));
  return {};
}

template <AnyProblem P>
CallStatus validate_step(const StepArguments<typename P::element>& args) {
  if (CallStatus status = validate<P>(args); !status) return status;
  return validate_for_device<P>(args);
}

inline bool is_empty(const Shape& s) { return s.batch == 0 || s.heads_kv == 0 || s.seq_q == 0; }

/// Launches valid arguments that are not empty.
template <AnyProblem P, Tiling tiling>
CallStatus launch_step(const StepArguments<typename P::element>& args, const device::Properties& device,
                       cudaStream_t stream) {
  using Kernel = kernel::Step<P, tiling>;
  if (CallStatus status = validate_step_extents<Kernel>(args); !status) return status;
  const Shape& s = args.shape;
  Launches launches(device, stream);
  launches.prepare<Kernel>();
  launches.launch<Kernel>({s.batch * s.heads_kv * Kernel::v_tiles}, kernel::step_params(args));
  return launches.status();
}

/// The largest blocks that keep most of the multiprocessors busy. Smaller ones spread a state over more of
/// them, but read its keys and queries again and again.
template <AnyProblem P>
std::size_t choose_step_tiling(const Shape& s, int multiprocessors) {
  constexpr tuning::StepTilings tilings = tuning::step_tilings<P>;
  std::size_t chosen = 0;
  while (chosen + 1 < tilings.count) {
    const int columns = tilings.list[chosen].columns;
    const std::int64_t blocks = s.batch * s.heads_kv * ((s.dim_v + columns - 1) / columns);
    if (4 * blocks >= 3 * static_cast<std::int64_t>(multiprocessors)) break;
    ++chosen;
  }
  return chosen;
}

}  // namespace host

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
/// Anything but ok names the argument, its value and the rule; then nothing has been launched.
template <AnyProblem P>
[[nodiscard]] CallStatus step(const StepArguments<typename P::element>& args, Workspace workspace,
                              cudaStream_t stream) {
  if (CallStatus status = host::validate_step<P>(args); !status) return status;
  if (CallStatus status = host::validate_workspace(workspace, workspace_bytes<P>(args)); !status)
    return status;
  if (host::is_empty(args.shape)) return {};
  device::Properties properties;
  if (CallStatus status = device::current_device(properties); !status) return status;
  constexpr tuning::StepTilings tilings = tuning::step_tilings<P>;
  const std::size_t chosen = host::choose_step_tiling<P>(args.shape, properties.multiprocessors);
  CallStatus status;
  [&]<std::size_t... i>(std::index_sequence<i...>) {
    (void)((chosen == i &&
            (status = host::launch_step<P, tilings.list[i]>(args, properties, stream), true)) ||
           ...);
  }
  (std::make_index_sequence<tilings.count>());
  return status;
}

/// Likewise, with blocks as `tiling` has them: see kernel::Step for what it may be.
template <AnyProblem P, Tiling tiling>
[[nodiscard]] CallStatus step(const StepArguments<typename P::element>& args, Workspace workspace,
                              cudaStream_t stream) {
  if (CallStatus status = host::validate_step<P>(args); !status) return status;
  if (CallStatus status = host::validate_workspace(workspace, workspace_bytes<P>(args)); !status)
    return status;
  if (host::is_empty(args.shape)) return {};
  device::Properties properties;
  if (CallStatus status = device::current_device(properties); !status) return status;
  return host::launch_step<P, tiling>(args, properties, stream);
}

}  // namespace cottention
