// The recurrent update on the CPU: a few tokens for each of many sequences.
#pragma once

#include <cottention/cpu/execution.hpp>
#include <cottention/cpu/targets.hpp>
#include <cottention/cpu/workspace.hpp>
#include <cottention/validation.hpp>

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::cpu::COTTENTION_CPU_TARGET {

/// Bytes of scratch that `step` needs; pointers need not be set yet. Anything but ok names what of the shape
/// or of `execution` would be refused; then `bytes` is 0.
template <AnyProblem P>
[[nodiscard]] CallStatus workspace_bytes(const StepArguments<typename P::element>& args, std::size_t& bytes,
                                         const Execution& execution = {}) {
  bytes = 0;
  if (CallStatus status = cottention::detail::validate_extents<P>(args); !status) return status;
  if (CallStatus status = validate(execution); !status) return status;
  const int threads = available_threads(execution);
  Carver carver;
  take_step_workspace<typename P::element>(carver, args.shape, threads);
  if (CallStatus status = validate(carver, threads); !status) return status;
  bytes = carver.bytes();
  return {};
}
/// The same as a number, 0 where the call would be refused.
template <AnyProblem P>
std::size_t workspace_bytes(const StepArguments<typename P::element>& args, const Execution& execution = {}) {
  std::size_t bytes = 0;
  return workspace_bytes<P>(args, bytes, execution) ? bytes : 0;
}

/// The recurrence, token by token, for T new tokens of each lane:
///
///     count += 1;   h += norm(k) (w v)^T;   o = h^T norm(q)
///
/// Shapes, slots and acceptance: StepArguments. `workspace` holds at least workspace_bytes<P>(args,
/// execution) bytes, aligned to 64. Allocates nothing. A lane's bits depend neither on the number of threads
/// nor on the other lanes.
///
/// Anything but ok names the argument, its value and the rule; then nothing has been written.
template <AnyProblem P, int vector_bytes = default_vector_bytes>
[[nodiscard]] CallStatus step(const StepArguments<typename P::element>& args, Workspace workspace,
                              const Execution& execution = {}) {
  using T = typename P::element;
  if (CallStatus status = validate(execution); !status) return status;
  if (CallStatus status = validate<P>(args); !status) return status;
  const int threads = available_threads(execution);
  Carver carver(workspace.data);
  const auto parts = take_step_workspace<T>(carver, args.shape, threads);
  if (CallStatus status = validate(carver, threads); !status) return status;
  if (CallStatus status = validate(workspace, carver.bytes(), threads); !status) return status;
  if (CallStatus status = validate_contents<P>(args, parts.slots_seen); !status) return status;
  const std::int64_t heads = args.shape.heads_kv, tasks = args.shape.batch * heads;
  if (tasks == 0 || args.shape.seq_q == 0) return {};
  detail::with_target<vector_bytes>(execution, [&]<class Code> {
    auto body = [&](int thread) {
      typename Code::template LaneStepper<P> stepper(args, parts.scratch + thread * parts.scratch_bytes);
      const std::int64_t share = tasks / parts.threads, left = tasks % parts.threads;
      const std::int64_t first = share * thread + std::min<std::int64_t>(thread, left);
      for (std::int64_t i = first; i < first + share + (thread < left ? 1 : 0); ++i)
        stepper.step(i / heads, i % heads);
    };
    parallel(execution, parts.threads, body);
  });
  for (std::int64_t lane = 0; lane < args.shape.batch; ++lane) {
    const std::int64_t slot = cottention::detail::slot_of(args.slot, lane);
    if (slot >= 0) args.pool.count[slot] += args.accepted == nullptr ? args.shape.seq_q : args.accepted[lane];
  }
  return {};
}

}  // namespace cottention::cpu::COTTENTION_CPU_TARGET

#if defined(__clang__)
#pragma float_control(pop)
#endif
