// All gradients on the CPU.
#pragma once

#include <cottention/cpu/driver.hpp>
#include <cottention/cpu/tuning.hpp>
#include <cottention/validation.hpp>

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::cpu {

namespace detail {

enum class Output { dq, dk, dv };

template <AnyProblem P>
class BackwardTasks {
 public:
  using T = typename P::element;
  using A = Accumulate<T>;

  explicit BackwardTasks(const BackwardArguments<T>& arguments) : args_(arguments), view_(arguments) {
    // The walk for dq (dk) also yields the gradient of m, and the one for dv the gradient of the initial
    // state.
    if (args_.dq.data != nullptr || scale_grad_output() == Output::dq) add(Output::dq);
    if (args_.dk.data != nullptr || scale_grad_output() == Output::dk) add(Output::dk);
    if (args_.dv.data != nullptr || args_.dinitial_state != nullptr) add(Output::dv);
  }

  Work work() const {
    const Shape& s = args_.shape;
    const bool packed = args_.cu_seqlens_q.given();
    const std::int64_t rows = (std::max)(s.seq_q, s.seq_k) * s.heads_kv * (packed ? 1 : s.batch) * outputs_;
    return {.states = heads(),
            .tasks = heads() * outputs_,
            .heads = s.heads_kv,
            .rows = rows,
            .dim_qk = s.dim_qk,
            .dim_v = s.dim_v,
            .scale_grad_tasks = P::scale == Scale::none ? 0 : heads(),
            .packed = packed,
            .interleaved = view_.interleaved()};
  }
  std::int64_t rows(std::int64_t i) const {
    const Sequence s = view_.sequence(i % heads() / args_.shape.heads_kv);
    return (std::max)(s.length_q, s.length_k);
  }
  std::int64_t scale_grad_index(std::int64_t i) const {
    return sums_scale_grad() && output(i) == scale_grad_output() ? i % heads() : -1;
  }

  WalkTask<T> task(std::int64_t i) const {
    const std::int64_t head = i % heads(), kv_head = head % args_.shape.heads_kv;
    const Sequence s = view_.sequence(head / args_.shape.heads_kv);
    const Side bc_side = output(i) == Output::dq ? Side::key : Side::query;
    const std::int64_t dim_qk = args_.shape.dim_qk, dim_v = args_.shape.dim_v;
    const auto rows = [&](const auto& tensor, Side side, std::int64_t dim, Norm norm, bool weighted) {
      return view_.rows(tensor, side, dim, s, kv_head, bc_side, norm, weighted);
    };
    const auto q = rows(args_.q, Side::query, dim_qk, Norm::normalize, false);
    const auto k = rows(args_.k, Side::key, dim_qk, Norm::normalize, false);
    const auto v = rows(args_.v, Side::key, dim_v, Norm::keep, view_.scaled_by_key());
    const auto g = rows(args_.dout, Side::query, dim_v, Norm::keep, view_.scaled_by_query());
    const std::int64_t state = head * dim_qk * dim_v;

    WalkTask<T> task;
    WalkParams<T>& w = task.walk;
    w = view_.walk(s, kv_head, bc_side);
    w.sums_scale_grad = scale_grad_index(i) >= 0;
    const A* initial = output(i) == Output::dq ? args_.initial_state.h : args_.dfinal_state;
    if (initial != nullptr) task.initial = initial + state;
    switch (output(i)) {
      case Output::dq:
        w.a = g, w.b = v, w.c = k;
        w.norm_input = q;
        w.out = rows(args_.dq, Side::query, dim_qk, Norm::keep, false);
        task.initial_layout = StateLayout::transposed;
        break;
      case Output::dk:
        w.a = v, w.b = g, w.c = q;
        w.norm_input = k;
        w.out = rows(args_.dk, Side::key, dim_qk, Norm::keep, false);
        task.initial_layout = StateLayout::transposed;
        break;
      case Output::dv:
        w.a = k, w.b = q, w.c = g;
        w.out = rows(args_.dv, Side::key, dim_v, Norm::keep, view_.scaled_by_key());
        if (args_.dinitial_state != nullptr) task.final = args_.dinitial_state + state;
        break;
    }
    return task;
  }

  /// Whether any walk sums for the gradient of m.
  bool sums_scale_grad() const { return args_.dscale_logit != nullptr && view_.scaled(); }
  const CallView<P, BackwardArguments<T>>& view() const { return view_; }

 private:
  std::int64_t heads() const { return args_.shape.batch * args_.shape.heads_kv; }
  Output output(std::int64_t i) const { return list_[i / heads()]; }
  void add(Output output) { list_[outputs_++] = output; }

  /// Whose walk meets c_j = norm(k_j) . dk^_j (or the same of q); dv's where there is no gradient of m, since
  /// it has no projection.
  Output scale_grad_output() const {
    if (!sums_scale_grad()) return Output::dv;
    return P::scale == Scale::by_key ? Output::dk : Output::dq;
  }

  const BackwardArguments<T>& args_;
  CallView<P, BackwardArguments<T>> view_;
  Output list_[3] = {};
  int outputs_ = 0;
};

}  // namespace detail

/// Bytes of scratch that `backward` needs, whatever the length of the sequences and whichever outputs are
/// wanted: pointers need not be set yet, and what is enough for a larger batch, more heads or more threads is
/// enough for a smaller one. Anything but ok names what of the shape or of `execution` would be refused; then
/// `bytes` is 0.
template <AnyProblem P, Tiling tile = tuned_tiling<P>>
[[nodiscard]] CallStatus workspace_bytes(const BackwardArguments<typename P::element>& args,
                                         std::size_t& bytes, const Execution& execution = {}) {
  bytes = 0;
  if (CallStatus status = cottention::detail::validate_extents<P>(args); !status) return status;
  if (CallStatus status = validate(execution); !status) return status;
  const int threads = available_threads(execution);
  const WorkspaceSize size =
      workspace_layout<typename P::element>(detail::BackwardTasks<P>(args).work(), tile.chunk, threads).size;
  if (CallStatus status = size.validate(threads); !status) return status;
  bytes = size.bytes();
  return {};
}
/// The same as a number, 0 where the call would be refused.
template <AnyProblem P, Tiling tile = tuned_tiling<P>>
std::size_t workspace_bytes(const BackwardArguments<typename P::element>& args,
                            const Execution& execution = {}) {
  std::size_t bytes = 0;
  return workspace_bytes<P, tile>(args, bytes, execution) ? bytes : 0;
}

/// Gradients of a loss with respect to q, k, v, scale_logit and the initial state, from those with respect to
/// o and the final state (docs/math.md). Needs nothing that the forward pass would have to save.
///
/// Shapes, layouts and optional arguments: BackwardArguments. `workspace` holds at least
/// workspace_bytes<P>(args, execution) bytes, aligned to 64. Allocates nothing. Results depend neither on the
/// number of threads nor, but for dscale_logit, which is a sum over the batch, on the rest of the batch, bit
/// for bit.
///
/// Anything but ok names the argument, its value and the rule; then nothing has been written.
template <AnyProblem P, Tiling tile = tuned_tiling<P>, int vector_bytes = native_vector_bytes>
[[nodiscard]] CallStatus backward(const BackwardArguments<typename P::element>& args, Workspace workspace,
                                  const Execution& execution = {}) {
  using T = typename P::element;
  if (CallStatus status = validate(execution); !status) return status;
  if (CallStatus status = validate<P>(args); !status) return status;
  if (CallStatus status = validate_contents<P>(args); !status) return status;
  const detail::BackwardTasks<P> call(args);
  const WorkspaceLayout layout = workspace_layout<T>(call.work(), tile.chunk, available_threads(execution));
  if (CallStatus status = layout.size.validate(available_threads(execution)); !status) return status;
  const bool any = call.work().tasks > 0 && (call.work().rows > 0 || args.dinitial_state != nullptr);
  if (any)
    if (CallStatus status = validate(workspace, layout.size.bytes(), available_threads(execution)); !status)
      return status;
  Driver<P, tile.chunk, vector_bytes, detail::BackwardTasks<P>> driver(call, layout, workspace);
  if (any) driver.run(execution);
  call.view().clear_trailing(args.dq, Side::query, args.shape.dim_qk);
  call.view().clear_trailing(args.dk, Side::key, args.shape.dim_qk);
  call.view().clear_trailing(args.dv, Side::key, args.shape.dim_v);
  if (args.dscale_logit == nullptr) return {};
  const std::int64_t heads = args.shape.heads_kv;
  for (std::int64_t head = 0; head < heads; ++head) {
    double sum = 0;
    for (std::int64_t b = 0; any && call.sums_scale_grad() && b < args.shape.batch; ++b) {
      const Sequence s = call.view().sequence(b);
      sum += driver.scale_grad_sum(b * heads + head, P::scale == Scale::by_key ? s.length_k : s.length_q);
    }
    const double slope =
        call.sums_scale_grad() ? sigmoid_slope(static_cast<double>(args.scale_logit[head])) : 0;
    args.dscale_logit[head] = static_cast<Accumulate<T>>(0 - slope * sum);
  }
  return {};
}

}  // namespace cottention::cpu

#if defined(__clang__)
#pragma float_control(pop)
#endif
