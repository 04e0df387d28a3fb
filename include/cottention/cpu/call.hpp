// What forward and backward calls have in common: their tasks, their workspace and their run.
#pragma once

#include <cottention/cpu/targets.hpp>
#include <cottention/cpu/tuning.hpp>
#include <cottention/validation.hpp>

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::cpu::COTTENTION_CPU_TARGET::detail {

/// The tasks of a call: one for each sequence, each key/value head, and each output that is computed, dk and
/// dv together where both are.
template <AnyProblem P, class Arguments>
class CallTasks {
 public:
  using T = typename P::element;

  explicit CallTasks(const Arguments& arguments) : args_(arguments), view_(arguments) {
    if constexpr (backward) {
      // The walk for dq or dk also yields the gradient of m, and the one for dv that of the initial state.
      const bool dk = args_.dk.data != nullptr || sums_scale_grad(Output::dk);
      const bool dv = args_.dv.data != nullptr || args_.dinitial_state != nullptr;
      key_gradients_ = dk && dv;
      if (key_gradients_)
        add(Output::dk);  // longest first, so that threads end together
      else if (dk || dv)
        add(dk ? Output::dk : Output::dv);
      if (args_.dq.data != nullptr || sums_scale_grad(Output::dq)) add(Output::dq);
    } else {
      add(Output::o);
    }
  }

  Work work() const {
    const Shape& s = args_.shape;
    const bool packed = args_.cu_seqlens_q.given();
    const std::int64_t rows = (std::max)(s.seq_q, s.seq_k) * s.heads_kv * (packed ? 1 : s.batch) * outputs_;
    return {.states = heads(),
            .tasks = heads() * outputs_,
            .two_output_tasks = key_gradients_ ? heads() : 0,
            .heads = s.heads_kv,
            .rows = rows,
            .dim_qk = s.dim_qk,
            .dim_v = s.dim_v,
            .scale_grad_tasks = backward && P::scale != Scale::none ? heads() : 0,
            .sums_heads = backward && view_.group() > 1,
            .two_outputs = backward,
            .packed = packed,
            .heads_adjacent = view_.heads_adjacent()};
  }
  std::int64_t rows(std::int64_t i) const {
    const Sequence s = view_.sequence(i % heads() / args_.shape.heads_kv);
    return (std::max)(s.length_q, s.length_k);
  }
  std::int64_t scale_grad_index(std::int64_t i) const {
    return sums_scale_grad(output(i)) ? i % heads() : -1;
  }
  WalkTask<T> task(std::int64_t i) const {
    const Sequence s = view_.sequence(i % heads() / args_.shape.heads_kv);
    const std::int64_t kv_head = i % args_.shape.heads_kv;
    WalkTask<T> task = key_gradients_ && output(i) == Output::dk ? view_.key_gradients_task(s, kv_head)
                                                                 : view_.task(output(i), s, kv_head);
    task.walk.sums_scale_grad = scale_grad_index(i) >= 0;
    if (!has_output(i)) task.walk.a_heads = task.walk.a_rows = 0;
    return task;
  }

  /// Whether the driver has anything to do: without rows, states alone pass from the first to the last.
  bool any() const {
    const Work w = work();
    return w.tasks > 0 && (w.rows > 0 || view_.final_state(backward ? Output::dv : Output::o) != nullptr);
  }

  /// Whether the walk of this output sums for the gradient of m: norm(k_j) . dk^_j is known where dk is
  /// computed, and the same of q where dq is.
  bool sums_scale_grad([[maybe_unused]] Output output) const {
    if constexpr (backward)
      return args_.dscale_logit != nullptr && view_.scaled() &&
             output == (P::scale == Scale::by_key ? Output::dk : Output::dq);
    else
      return false;
  }
  const CallView<P, Arguments>& view() const { return view_; }

 private:
  static constexpr bool backward = requires(const Arguments& args) { args.dout; };

  std::int64_t heads() const { return args_.shape.batch * args_.shape.heads_kv; }
  Output output(std::int64_t i) const { return list_[i / heads()]; }
  /// Whether a task makes more than its final state.
  bool has_output([[maybe_unused]] std::int64_t i) const {
    if constexpr (backward)
      return output(i) != Output::dv || args_.dv.data != nullptr;
    else
      return view_.group() > 0;
  }
  void add(Output output) { list_[outputs_++] = output; }

  const Arguments& args_;
  CallView<P, Arguments> view_;
  Output list_[2] = {};
  int outputs_ = 0;
  bool key_gradients_ = false;  // dk in the list stands for dk and dv
};

/// The `workspace_bytes` of forward and backward.
template <AnyProblem P, Tiling tile, class Arguments>
CallStatus call_workspace_bytes(const Arguments& args, std::size_t& bytes, const Execution& execution) {
  bytes = 0;
  if (CallStatus status = cottention::detail::validate_extents<P>(args); !status) return status;
  if (CallStatus status = validate(execution); !status) return status;
  const int threads = available_threads(execution);
  Carver carver;
  take_workspace<typename P::element>(carver, CallTasks<P, Arguments>(args).work(), tile.chunk, threads);
  if (CallStatus status = validate(carver, threads); !status) return status;
  bytes = carver.bytes();
  return {};
}

/// Room for an entry for each slot that is written in the workspace, which is not yet checked; null where it
/// has none.
template <class Arguments>
std::int32_t* slot_scratch(const Arguments& args, Workspace workspace) {
  const std::int64_t entries = cottention::detail::ForwardSlots<Arguments>{args}.count();
  const bool fits = workspace.bytes / sizeof(std::int32_t) >= static_cast<std::size_t>(entries);
  return fits && validate(workspace, 1) ? static_cast<std::int32_t*>(workspace.data) : nullptr;
}

/// Checks all of a call, its workspace included.
template <AnyProblem P, Tiling tile, class Arguments>
CallStatus validate_call(const Arguments& args, Workspace workspace, const Execution& execution) {
  if (CallStatus status = validate(execution); !status) return status;
  if (CallStatus status = validate<P>(args); !status) return status;
  if constexpr (requires { args.read_slot; }) {
    if (CallStatus status = validate_contents<P>(args, slot_scratch(args, workspace)); !status) return status;
  } else {
    if (CallStatus status = validate_contents<P>(args); !status) return status;
  }
  const CallTasks<P, Arguments> tasks(args);
  const int threads = available_threads(execution);
  Carver carver;
  take_workspace<typename P::element>(carver, tasks.work(), tile.chunk, threads);
  if (CallStatus status = validate(carver, threads); !status) return status;
  return tasks.any() ? validate(workspace, carver.bytes(), threads) : CallStatus{};
}

/// Runs the tasks of a valid call, and calls finish(tasks, driver), with a null driver where there was
/// nothing to run.
template <AnyProblem P, Tiling tile, int vector_bytes, class Arguments, class Finish>
void run_tasks(const Arguments& args, Workspace workspace, const Execution& execution, Finish finish) {
  using Tasks = CallTasks<P, Arguments>;
  const Tasks tasks(args);
  Carver carver(workspace.data);
  const auto parts =
      take_workspace<typename P::element>(carver, tasks.work(), tile.chunk, available_threads(execution));
  const bool any = tasks.any();
  with_target<vector_bytes>(execution, [&]<class Code> {
    typename Code::template CallDriver<P, tile.chunk, Tasks> driver(tasks, parts);
    if (any) driver.run(execution);
    finish(tasks, any ? &driver : nullptr);
  });
}

}  // namespace cottention::cpu::COTTENTION_CPU_TARGET::detail

#if defined(__clang__)
#pragma float_control(pop)
#endif
