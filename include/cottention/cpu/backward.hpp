// All gradients on the CPU.
#pragma once

#include <initializer_list>

#include <cottention/cpu/call.hpp>

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::cpu::COTTENTION_CPU_TARGET {

/// Bytes of scratch that `backward` needs, whatever the length of the sequences and whichever outputs are
/// wanted: pointers need not be set yet, and what is enough for a larger batch, more key heads in groups of
/// the same size or more threads is enough for fewer, in the same layout. Anything but ok names what of the
/// shape or of `execution` would be refused; then `bytes` is 0.
template <AnyProblem P, Tiling tile = tuned_tiling<P>>
[[nodiscard]] CallStatus workspace_bytes(const BackwardArguments<typename P::element>& args,
                                         std::size_t& bytes, const Execution& execution = {}) {
  return detail::call_workspace_bytes<P, tile>(args, bytes, execution);
}
/// The same as a number, 0 where the call would be refused.
template <AnyProblem P, Tiling tile = tuned_tiling<P>>
std::size_t workspace_bytes(const BackwardArguments<typename P::element>& args,
                            const Execution& execution = {}) {
  std::size_t bytes = 0;
  return workspace_bytes<P, tile>(args, bytes, execution) ? bytes : 0;
}

namespace detail {

/// A valid call, but for the tokens behind the last packed sequence.
template <AnyProblem P, Tiling tile, int vector_bytes>
void run_backward(const BackwardArguments<typename P::element>& args, Workspace workspace,
                  const Execution& execution) {
  run_tasks<P, tile, vector_bytes>(args, workspace, execution, [&](const auto& tasks, const auto* driver) {
    const std::int64_t heads = args.dscale_logit == nullptr ? 0 : args.shape.heads_kv;
    constexpr bool by_key = P::scale == Scale::by_key;
    const bool sums = tasks.sums_scale_grad(by_key ? Output::dk : Output::dq);
    for (std::int64_t head = 0; head < heads; ++head) {
      double sum = 0;
      for (std::int64_t b = 0; driver != nullptr && sums && b < args.shape.batch; ++b)
        sum += driver->scale_grad_sum(b * heads + head);
      const double slope = sums ? sigmoid_slope(static_cast<double>(args.scale_logit[head])) : 0;
      args.dscale_logit[head] = static_cast<Accumulate<typename P::element>>(0 - slope * sum);
    }
  });
}

}  // namespace detail

/// Gradients of a loss with respect to q, k, v, scale_logit and the initial state, from those with respect to
/// o and the final state (docs/math.md). Needs nothing that the forward pass would have to save.
///
/// Shapes, layouts and optional arguments: BackwardArguments. `workspace` holds at least
/// workspace_bytes<P>(args, execution) bytes, aligned to 64. Allocates nothing. Results depend neither on the
/// number of threads nor, but for dscale_logit, which is a sum over the batch, on the rest of the batch, bit
/// for bit.
///
/// Anything but ok names the argument, its value and the rule; then nothing has been written.
template <AnyProblem P, Tiling tile = tuned_tiling<P>, int vector_bytes = default_vector_bytes>
[[nodiscard]] CallStatus backward(const BackwardArguments<typename P::element>& args, Workspace workspace,
                                  const Execution& execution = {}) {
  if (CallStatus status = detail::validate_call<P, tile>(args, workspace, execution); !status) return status;
  detail::run_backward<P, tile, vector_bytes>(args, workspace, execution);
  const CallView<P, BackwardArguments<typename P::element>> view(args);
  for (const Output output : {Output::dq, Output::dk, Output::dv}) view.clear_trailing(output, execution);
  return {};
}

}  // namespace cottention::cpu::COTTENTION_CPU_TARGET

#if defined(__clang__)
#pragma float_control(pop)
#endif
