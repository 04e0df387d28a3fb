// The parallel forward pass on the CPU.
#pragma once

#include <cottention/cpu/call.hpp>

namespace cottention::cpu::COTTENTION_CPU_TARGET {

/// Bytes of scratch that `forward` needs, whatever the length of the sequences: pointers need not be
/// set yet, and what is enough for a larger batch, more key heads in groups of the same size or more threads
/// is enough for fewer, in the same layout.
/// Anything but ok names what of the shape or of `execution` would be refused; then `bytes` is 0.
template <AnyProblem P, Tiling tile = tuned_tiling<P>>
[[nodiscard]] CallStatus workspace_bytes(const ForwardArguments<typename P::element>& args,
                                         std::size_t& bytes, const Execution& execution = {}) {
  return detail::call_workspace_bytes<P, tile>(args, bytes, execution);
}
/// The same as a number, 0 where the call would be refused.
template <AnyProblem P, Tiling tile = tuned_tiling<P>>
std::size_t workspace_bytes(const ForwardArguments<typename P::element>& args,
                            const Execution& execution = {}) {
  std::size_t bytes = 0;
  return workspace_bytes<P, tile>(args, bytes, execution) ? bytes : 0;
}

namespace detail {

/// A valid call, but for the tokens behind the last packed sequence.
template <AnyProblem P, Tiling tile, int vector_bytes>
void run_forward(const ForwardArguments<typename P::element>& args, Workspace workspace,
                 const Execution& execution) {
  run_tasks<P, tile, vector_bytes>(args, workspace, execution, [&](const auto& tasks, const auto*) {
    for (std::int64_t b = 0; args.final_state.count != nullptr && b < args.shape.batch; ++b)
      tasks.view().store_counts(tasks.view().sequence(b));
  });
}

}  // namespace detail

/// Cosine attention (problem.hpp has the equation) on the CPU.
///
/// Shapes, layouts and optional arguments: ForwardArguments. `workspace` holds at least
/// workspace_bytes<P>(args, execution) bytes, aligned to 64. Allocates nothing. Results depend neither on the
/// number of threads nor on the rest of the batch, bit for bit; so both values of `plan` give the same.
///
/// Anything but ok names the argument, its value and the rule; then nothing has been written.
template <AnyProblem P, Tiling tile = tuned_tiling<P>, int vector_bytes = default_vector_bytes>
[[nodiscard]] CallStatus forward(const ForwardArguments<typename P::element>& args, Workspace workspace,
                                 const Execution& execution = {}) {
  if (CallStatus status = detail::validate_call<P, tile>(args, workspace, execution); !status) return status;
  detail::run_forward<P, tile, vector_bytes>(args, workspace, execution);
  CallView<P, ForwardArguments<typename P::element>>(args).clear_trailing(Output::o, execution);
  return {};
}

}  // namespace cottention::cpu::COTTENTION_CPU_TARGET
