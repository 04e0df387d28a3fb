// A call of `backward`: a recurrence for each gradient, or one kernel for all of them, or for dk and dv.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <cottention/choice.hpp>
#include <cottention/host/gradient_tilings.cuh>
#include <cottention/host/launches.cuh>
#include <cottention/host/piece_states.cuh>
#include <cottention/host/recurrence.cuh>
#include <cottention/host/trailing.cuh>
#include <cottention/host/validation.hpp>
#include <cottention/kernel/scale_grad.cuh>
#include <cottention/workspace_layout.hpp>

namespace cottention::host {

/// Scratch memory of one call. The recurrences run one after the other and use the same.
template <class A>
struct GradientWorkspace {
  A* partial_states = nullptr;
  A* grad_normalized = nullptr;
  double* scale_grad_partials = nullptr;
  int* redo_flags = nullptr;
};
/// How many elements each of these parts has.
struct GradientCounts {
  std::int64_t partial_states = 0, grad_normalized = 0, scale_grad_partials = 0, redo_flags = 0;
};

template <AnyProblem P, Tiling... given>
class BackwardCall {
 public:
  using T = typename P::element;
  using A = Accumulate<T>;
  using Output = recurrence::Output;
  using Carver = cottention::detail::Carver;

  BackwardCall(const BackwardArguments<T>& args, Split split, const device::Properties& device,
               TrailingRows trailing = TrailingRows::cleared)
      : args_(args), trailing_(trailing) {
    const Workload load = workload(args, split);
    const auto plan = [&]<Output output>() {
      using Rows = RowsOf<output>;
      Recurrence& r = recurrences_[place_of(output)];
      r.row = Rows::choose(load, device);
      with_row<Rows>(r.row, [&]<Tiling tiling>() {
        r.splits = plan_splits<kernel::Roles<P, output>, tiling>(load, device.multiprocessors);
      });
    };
    plan.template operator()<Output::dq>();
    plan.template operator()<Output::dk>();
    plan.template operator()<Output::dv>();
    for_each_output(
        [this]<class R, Tiling tiling>(const SplitPlan& p) { this->template count<R, tiling>(p); });
    fused_row_ = choose_fused(load, device);
    shares_keys_ = !is_fused() && has_key_gradients(device);
    if constexpr (FusedRows::has_wgmma)
      if (FusedRows::choose_wgmma(load, device) != no_row)
        counts_.partial_states = (std::max)(counts_.partial_states, piece_states().elements());
  }

  /// Bytes of scratch memory that are enough whichever outputs are wanted.
  std::size_t workspace_bytes() const {
    Carver carver(nullptr, device_workspace_alignment);
    (void)place(carver);
    return carver.fits() ? carver.bytes() : (std::numeric_limits<std::size_t>::max)();
  }
  std::size_t used_bytes() const {
    return wanted(Output::dq) || wanted(Output::dk) || wanted(Output::dv) ? workspace_bytes() : 0;
  }

  BackwardChoice choice() const {
    BackwardChoice choice{.fused = is_fused(), .workspace_bytes = workspace_bytes()};
    if constexpr (FusedRows::table.count > 0)
      if (choice.fused) {
        choice.fused_tiling = FusedRows::table.list[fused_row_];
        choice.fused_pieces = fused_splits().pieces;
      }
    if constexpr (KeyRows::table.count > 0)
      if (shares_keys_)
        choice.dk_dv = {.tiling = KeyRows::table.list[0],
                        .pieces = recurrences_[place_of(Output::dk)].splits.pieces};
    for_each_output([&]<class R, Tiling tiling>(const SplitPlan& p) {
      if (!has_own_kernels(R::output)) return;
      (R::output == Output::dq   ? choice.dq
       : R::output == Output::dk ? choice.dk
                                 : choice.dv) = {.tiling = tiling, .pieces = p.pieces};
    });
    return choice;
  }

  template <class Each>
  void kernels(void* memory, Each each) const {
    Carver carver(memory, device_workspace_alignment);
    const GradientWorkspace<A> workspace = place(carver);
    if constexpr (FusedRows::table.count > 0)
      if (is_fused())
        with_row<FusedRows>(fused_row_, [&]<Tiling tiling>() {
          using Kernel = typename FusedRows::template Kernel<tiling>;
          if constexpr (tiling.engine == Engine::wgmma)
            piece_states().kernels(workspace.partial_states, each,
                                   [&] { return fused_params<tiling>(workspace).dk; });
          each.template operator()<Kernel>({fused_splits().batch_heads, fused_splits().pieces},
                                           [&] { return fused_params<tiling>(workspace); });
        });
    for_each_output([&]<class R, Tiling tiling>(const SplitPlan& splits) {
      if constexpr (KeyRows::table.count > 0 && R::output == Output::dk && tiling.engine == Engine::wgmma)
        if (shares_keys_) key_kernels<R, tiling>(splits, workspace, each);
      if (!has_own_kernels(R::output)) return;
      const auto of_recurrence = [&] {
        auto p = params<R, tiling>(splits, workspace);
        if (is_fused()) p.redo_flags = workspace.redo_flags;
        return p;
      };
      const auto launch = [&]<class Kernel>(device::Grid grid) {
        each.template operator()<Kernel>(grid, of_recurrence);
      };
      if (is_fused())
        output_kernels<R, tiling>(splits, launch);
      else
        recurrence_kernels<R, tiling>(splits, launch);
    });
    if (args_.dscale_logit != nullptr && args_.shape.heads_kv > 0)
      each.template operator()<kernel::ScaleGrad<T>>({args_.shape.heads_kv},
                                                     [&] { return scale_grad_params(workspace); });
    if (trailing_ == TrailingRows::cleared)
      TrailingCall<T, BackwardArguments<T>>(args_).kernels(memory, each);
  }

 private:
  using FusedRows = FusedBackwardTilings<P, given...>;
  using KeyRows = KeyGradientTilings<P, given...>;
  template <Output output>
  using RowsOf = RecurrenceRows<kernel::Roles<P, output>, given...>;

  /// The output whose rows have weights, and with them the gradient of scale_logit.
  static constexpr Output scale_grad_output = P::scale == Scale::by_query ? Output::dq : Output::dk;
  static constexpr std::size_t no_row = FusedRows::table.count;

  struct Recurrence {
    std::size_t row = 0;
    SplitPlan splits;
  };
  static constexpr std::size_t place_of(Output output) {
    return output == Output::dq ? 0 : output == Output::dk ? 1 : 2;
  }

  template <class F>
  void for_each_output(F f) const {
    const auto with = [&]<Output output>() {
      const Recurrence& r = recurrences_[place_of(output)];
      with_row<RowsOf<output>>(
          r.row, [&]<Tiling tiling>() { f.template operator()<kernel::Roles<P, output>, tiling>(r.splits); });
    };
    with.template operator()<Output::dq>();
    with.template operator()<Output::dk>();
    with.template operator()<Output::dv>();
  }

  // ---- Scratch memory

  template <kernel::AnyRoles R, Tiling tiling>
  void count(const SplitPlan& p) {
    counts_.partial_states =
        (std::max)(counts_.partial_states, static_cast<std::int64_t>(p.partial_bytes / sizeof(A)));
    if constexpr (KeyRows::table.count > 0 && P::mask == Mask::bidirectional && R::output == Output::dk)
      if (tiling.engine == Engine::wgmma)  // a kernel that makes dk and dv has D from there
        counts_.partial_states =
            (std::max)(counts_.partial_states, p.batch_heads * p.pieces * p.partial_elements);
    if (FusedRows::table.count > 0 && P::mask == Mask::causal) counts_.redo_flags = p.batch_heads * p.pieces;
    if constexpr (has_project<R, tiling>) {
      const Shape& s = args_.shape;
      const std::int64_t rows = (R::rows_are_queries ? s.seq_q * s.heads_q : s.seq_k * s.heads_kv) *
                                (args_.cu_seqlens_q.given() ? 1 : s.batch);
      counts_.grad_normalized = (std::max)(counts_.grad_normalized, rows * R::dims.v);
    }
    if (P::scale != Scale::none && R::output == scale_grad_output) {
      partials_per_head_ = P::mask == Mask::causal ? p.pieces : p.m_blocks;
      counts_.scale_grad_partials = p.batch_heads * partials_per_head_;
    }
  }

  GradientWorkspace<A> place(Carver& carver) const {
    GradientWorkspace<A> workspace;
    workspace.partial_states = carver.template take<A>(counts_.partial_states);
    workspace.grad_normalized = carver.template take<A>(counts_.grad_normalized);
    workspace.scale_grad_partials = carver.template take<double>(counts_.scale_grad_partials);
    workspace.redo_flags = carver.template take<int>(counts_.redo_flags);
    return workspace;
  }

  // ---- What is launched

  /// Whether there is anything for a recurrence to do.
  bool wanted(Output output) const {
    const Shape& s = args_.shape;
    if (s.batch == 0 || s.heads_kv == 0) return false;
    if (output == Output::dv && args_.dinitial_state != nullptr) return true;
    if (output == Output::dq ? s.seq_q == 0 || s.heads_q == 0 : s.seq_k == 0) return false;
    if (output == scale_grad_output && wants_scale_grad()) return true;
    return (output == Output::dq   ? args_.dq.data
            : output == Output::dk ? args_.dk.data
                                   : args_.dv.data) != nullptr;
  }
  bool wants_scale_grad() const {
    return P::scale != Scale::none && args_.dscale_logit != nullptr && args_.scale_logit.given();
  }

  /// The row of the kernel that is to make all gradients, which is worth while for two or more; no_row where
  /// each has kernels of its own.
  std::size_t choose_fused(const Workload& load, const device::Properties& device) const {
    const Shape& s = load.shape;
    if (s.seq_q == 0 || s.heads_q == 0) return no_row;
    const int outputs = wanted(Output::dq) + wanted(Output::dk) + wanted(Output::dv);
    if (outputs < 2) return no_row;
    if (!wanted(Output::dq) && has_key_gradients(device)) return no_row;  // it moves no tensor for dq
    const bool is_invariant = load.plan == Plan::batch_invariant;
    bool is_cut = false;
    for (const Recurrence& r : recurrences_) is_cut = is_cut || r.splits.pieces > 1;
    // Two of the gradients alone move 9 or 10 tensors; together, with S summed first, it takes as long as 10.
    if (args_.final_h != nullptr || is_cut || is_invariant || outputs == 3)
      if (const std::size_t row = FusedRows::choose_wgmma(load, device); row != no_row) return row;
    // Whether a sequence is cut may follow from the rest of its batch, and must not change its bits then.
    if (is_invariant || is_cut) return no_row;
    const tuning::Occupancy occupancy = tuning::occupancy_of(s.batch * s.heads_kv, device.multiprocessors);
    if (P::mask == Mask::causal && s.heads_q != s.heads_kv) return no_row;
    // Kernels of the wgmma engine for each gradient, or for dq and for dk with dv, move up to twice the
    // bytes. Counted in the clocks of shared memory (docs/performance.md, "Floors"), the kernel of the
    // mma.sync engine takes less time beyond that only with many blocks, up to dim 64. Unmeasured.
    const bool is_narrow = P::head_dim.qk <= 64 && P::head_dim.v <= 64;
    if (all_take_wgmma() && !(is_narrow && occupancy == tuning::Occupancy::high)) return no_row;
    return FusedRows::choose_mma_sync(occupancy, device);
  }
  bool all_take_wgmma() const {
    bool all = true;
    for_each_output([&]<class R, Tiling tiling>(const SplitPlan&) {
      if (wanted(R::output)) all = all && tiling.engine == Engine::wgmma;
    });
    return all;
  }
  /// Whether one kernel makes dk and dv: both are wanted, and would be recurrences of the wgmma engine.
  bool has_key_gradients(const device::Properties& device) const {
    bool has = KeyRows::table.count > 0 && wanted(Output::dk) && wanted(Output::dv);
    for_each_output([&]<class R, Tiling tiling>(const SplitPlan&) {
      if (R::output != Output::dq) has = has && tiling.engine == Engine::wgmma;
    });
    if constexpr (KeyRows::table.count > 0) {
      using Kernel = typename KeyRows::template Kernel<KeyRows::table.list[0]>;
      return has && has_room<Kernel>(device) && device::has_code<Kernel>();
    }
    return has;
  }
  bool is_fused() const { return fused_row_ != no_row; }
  /// Whether an output has kernels of its own: beside the fused kernel, dq of the heads whose redo flag it
  /// sets.
  bool has_own_kernels(Output output) const {
    if (shares_keys_ && output != Output::dq) return false;
    return wanted(output) && (!is_fused() || (P::mask == Mask::causal && output == Output::dq));
  }

  /// The kernel that makes dk and dv, from the states of dk's recurrence.
  template <kernel::AnyRoles R, Tiling tiling, class Each>
  void key_kernels(const SplitPlan& splits, const GradientWorkspace<A>& workspace, Each each) const {
    constexpr bool causal = P::mask == Mask::causal;
    const auto with_states = [&](kernel::RecurrenceParams<T> p) {
      if (!causal || splits.pieces > 1) p.partial_states = workspace.partial_states;
      return p;
    };
    if (!causal || splits.pieces > 1)
      state_kernels<R, tiling>(splits, [&]<class Kernel>(device::Grid grid) {
        each.template operator()<Kernel>(grid,
                                         [&] { return with_states(params<R, tiling>(splits, workspace)); });
      });
    using Kernel = typename KeyRows::template Kernel<KeyRows::table.list[0]>;
    each.template operator()<Kernel>({splits.batch_heads, causal ? splits.pieces : splits.m_blocks}, [&] {
      auto p = gradient_params(workspace);
      p.dk = with_states(p.dk);
      p.dq.out = {};  // maybe not for TMA
      return p;
    });
  }

  // ---- What kernels are given

  typename kernel::ScaleGrad<T>::Params scale_grad_params(const GradientWorkspace<A>& workspace) const {
    return {.scale_grad_partials =
                wants_scale_grad() && wanted(scale_grad_output) ? workspace.scale_grad_partials : nullptr,
            .scale_logit = args_.scale_logit,
            .dscale_logit = args_.dscale_logit,
            .batch = args_.shape.batch,
            .heads_kv = static_cast<int>(args_.shape.heads_kv),
            .partials_per_head = partials_per_head_};
  }

  /// How the kernel that makes all gradients cuts sequences. Only that of the wgmma engine does, whose
  /// recurrences are cut alike.
  const SplitPlan& fused_splits() const { return recurrences_[place_of(Output::dq)].splits; }
  PieceStates<P> piece_states() const { return {args_, fused_splits()}; }

  /// Those of each recurrence.
  kernel::GradientParams<P> gradient_params(const GradientWorkspace<A>& workspace) const {
    kernel::GradientParams<P> p;
    for_each_output([&]<class R, Tiling tiling>(const SplitPlan& splits) {
      auto& part = R::output == Output::dq ? p.dq : R::output == Output::dk ? p.dk : p.dv;
      part = params<R, tiling>(splits, workspace);
    });
    return p;
  }
  template <Tiling fused_tiling>
  kernel::GradientParams<P> fused_params(const GradientWorkspace<A>& workspace) const {
    kernel::GradientParams<P> p = gradient_params(workspace);
    p.final_h = args_.final_h;
    if constexpr (P::mask == Mask::causal) p.redo_flags = workspace.redo_flags;
    if constexpr (fused_tiling.engine == Engine::wgmma) {
      p.dq.partial_states = piece_states().of_s(workspace.partial_states);
      p.dk.partial_states = piece_states().of_d(workspace.partial_states);
    }
    return p;
  }

  template <kernel::AnyRoles R, Tiling tiling>
  kernel::RecurrenceParams<T> params(const SplitPlan& splits, const GradientWorkspace<A>& workspace) const {
    using tile::view;
    const Shape& s = args_.shape;
    kernel::RecurrenceParams<T> p = recurrence_params<R>(args_, splits);
    set_operands<R>(
        p, {view(args_.q, s.seq_q, s.heads_q, s.dim_qk), view(args_.k, s.seq_k, s.heads_kv, s.dim_qk),
            view(args_.v, s.seq_k, s.heads_kv, s.dim_v), view(args_.dout, s.seq_q, s.heads_q, s.dim_v)});
    p.layout = recurrence::state_layout(R::output);
    if constexpr (R::output == Output::dq) {
      p.out = view(args_.dq, s.seq_q, s.heads_q, s.dim_qk);
      p.initial_h = args_.initial_state.h;
    } else if constexpr (R::output == Output::dk) {
      p.out = view(args_.dk, s.seq_k, s.heads_kv, s.dim_qk);
      p.initial_h = args_.dfinal_state;
    } else {
      p.out = view(args_.dv, s.seq_k, s.heads_kv, s.dim_v);
      p.initial_h = args_.dfinal_state;
      p.final_h = args_.dinitial_state;
    }
    if (splits.pieces > 1) p.partial_states = workspace.partial_states;
    if constexpr (has_project<R, tiling>)
      p.grad_normalized = view(Tensor<A>{workspace.grad_normalized}, R::rows_are_queries ? s.seq_q : s.seq_k,
                               R::rows_are_queries ? s.heads_q : s.heads_kv, R::dims.v);
    if (R::output == scale_grad_output && wants_scale_grad())
      p.scale_grad_partials = workspace.scale_grad_partials;
    if (!R::rows_are_queries && s.heads_q == 0) {
      // No terms; zeros are copied from nowhere, but not from null.
      p.b.data = p.a.data;
      p.c.data = p.a.data;
    }
    return p;
  }

  const BackwardArguments<T>& args_;
  TrailingRows trailing_;
  std::array<Recurrence, 3> recurrences_{};  // of dq, dk and dv
  GradientCounts counts_;
  int partials_per_head_ = 0;
  std::size_t fused_row_ = no_row;
  bool shares_keys_ = false;
};

}  // namespace cottention::host
