// The parallel forward pass on the CPU.
#pragma once

#include <cottention/cpu/driver.hpp>
#include <cottention/cpu/tuning.hpp>
#include <cottention/validation.hpp>

namespace cottention::cpu {

namespace detail {

template <AnyProblem P>
class ForwardTasks {
 public:
  using T = typename P::element;

  explicit ForwardTasks(const ForwardArguments<T>& arguments) : args_(arguments), view_(arguments) {}

  Work work() const {
    const Shape& s = args_.shape;
    const bool packed = args_.cu_seqlens_q.given();
    const std::int64_t rows = (std::max)(s.seq_q, s.seq_k) * s.heads_kv * (packed ? 1 : s.batch);
    return {.states = s.batch * s.heads_kv,
            .tasks = s.batch * s.heads_kv,
            .heads = s.heads_kv,
            .rows = rows,
            .dim_qk = s.dim_qk,
            .dim_v = s.dim_v,
            .packed = packed,
            .interleaved = view_.interleaved()};
  }
  std::int64_t rows(std::int64_t i) const {
    const Sequence s = view_.sequence(i / args_.shape.heads_kv);
    return (std::max)(s.length_q, s.length_k);
  }
  std::int64_t scale_grad_index(std::int64_t) const { return -1; }

  WalkTask<T> task(std::int64_t i) const {
    const std::int64_t kv_head = i % args_.shape.heads_kv;
    const Sequence s = view_.sequence(i / args_.shape.heads_kv);
    const std::int64_t dim_qk = args_.shape.dim_qk, dim_v = args_.shape.dim_v;
    const auto rows = [&](const auto& tensor, Side side, std::int64_t dim, Norm norm, bool weighted) {
      return view_.rows(tensor, side, dim, s, kv_head, Side::key, norm, weighted);
    };
    WalkTask<T> task;
    task.walk = view_.walk(s, kv_head, Side::key);
    task.walk.a = rows(args_.q, Side::query, dim_qk, Norm::normalize, false);
    task.walk.b = rows(args_.k, Side::key, dim_qk, Norm::normalize, false);
    task.walk.c = rows(args_.v, Side::key, dim_v, Norm::keep, view_.scaled_by_key());
    task.walk.out = rows(args_.o, Side::query, dim_v, Norm::keep, view_.scaled_by_query());
    const std::int64_t state = i * dim_qk * dim_v;
    if (args_.initial_state.h != nullptr) task.initial = args_.initial_state.h + state;
    if (args_.final_state.h != nullptr) task.final = args_.final_state.h + state;
    return task;
  }

  const CallView<P, ForwardArguments<T>>& view() const { return view_; }

 private:
  const ForwardArguments<T>& args_;
  CallView<P, ForwardArguments<T>> view_;
};

}  // namespace detail

/// Bytes of scratch that `forward` needs, whatever the length of the sequences: pointers need not be
/// set yet, and what is enough for a larger batch, more heads or more threads is enough for a smaller one.
/// Anything but ok names what of the shape or of `execution` would be refused; then `bytes` is 0.
template <AnyProblem P, Tiling tile = tuned_tiling<P>>
[[nodiscard]] CallStatus workspace_bytes(const ForwardArguments<typename P::element>& args,
                                         std::size_t& bytes, const Execution& execution = {}) {
  bytes = 0;
  if (CallStatus status = cottention::detail::validate_extents<P>(args); !status) return status;
  if (CallStatus status = validate(execution); !status) return status;
  const int threads = available_threads(execution);
  const WorkspaceSize size =
      workspace_layout<typename P::element>(detail::ForwardTasks<P>(args).work(), tile.chunk, threads).size;
  if (CallStatus status = size.validate(threads); !status) return status;
  bytes = size.bytes();
  return {};
}
/// The same as a number, 0 where the call would be refused.
template <AnyProblem P, Tiling tile = tuned_tiling<P>>
std::size_t workspace_bytes(const ForwardArguments<typename P::element>& args,
                            const Execution& execution = {}) {
  std::size_t bytes = 0;
  return workspace_bytes<P, tile>(args, bytes, execution) ? bytes : 0;
}

/// Cosine attention (problem.hpp has the equation) on the CPU.
///
/// Shapes, layouts and optional arguments: ForwardArguments. `workspace` holds at least
/// workspace_bytes<P>(args, execution) bytes, aligned to 64. Allocates nothing. Results depend neither on the
/// number of threads nor on the rest of the batch, bit for bit; so both values of `plan` give the same.
///
/// Anything but ok names the argument, its value and the rule; then nothing has been written.
template <AnyProblem P, Tiling tile = tuned_tiling<P>, int vector_bytes = native_vector_bytes>
[[nodiscard]] CallStatus forward(const ForwardArguments<typename P::element>& args, Workspace workspace,
                                 const Execution& execution = {}) {
  using T = typename P::element;
  if (CallStatus status = validate(execution); !status) return status;
  if (CallStatus status = validate<P>(args); !status) return status;
  if (CallStatus status = validate_contents<P>(args); !status) return status;
  const detail::ForwardTasks<P> call(args);
  const WorkspaceLayout layout = workspace_layout<T>(call.work(), tile.chunk, available_threads(execution));
  if (CallStatus status = layout.size.validate(available_threads(execution)); !status) return status;
  const bool any = call.work().tasks > 0 && (call.work().rows > 0 || args.final_state.h != nullptr);
  if (any)
    if (CallStatus status = validate(workspace, layout.size.bytes(), available_threads(execution)); !status)
      return status;
  if (any)
    Driver<P, tile.chunk, vector_bytes, detail::ForwardTasks<P>>(call, layout, workspace).run(execution);
  call.view().clear_trailing(args.o, Side::query, args.shape.dim_v);
  if (args.final_state.count != nullptr) {
    for (std::int64_t b = 0; b < args.shape.batch; ++b) {
      const Sequence s = call.view().sequence(b);
      args.final_state.count[b] = call.view().initial_count(s) + call.view().unmasked_keys(s);
    }
  }
  return {};
}

}  // namespace cottention::cpu
