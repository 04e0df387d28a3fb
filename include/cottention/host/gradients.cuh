// The recurrences of a backward call, one for each gradient.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <iterator>
#include <type_traits>

#include <cottention/host/launches.cuh>
#include <cottention/host/recurrence.cuh>
#include <cottention/host/validation.hpp>
#include <cottention/kernel/scale_grad.cuh>
#include <cottention/sm80/gradient.cuh>
#include <cottention/sm80/gradient_apply.cuh>

namespace cottention::host {

/// How each recurrence comes by its Tiling.
struct TunedTiling {
  static constexpr bool tuned = true;
  template <kernel::AnyRoles R, class F>
  static auto with(const device::Properties& device, const Shape& shape, Plan plan, Split split, F f) {
    return with_tiling<R>(device, shape, plan, split, f);
  }
};
template <Tiling tiling>
struct GivenTiling {
  static constexpr bool tuned = false;
  template <kernel::AnyRoles R, class F>
  static auto with(const device::Properties&, const Shape&, Plan, Split, F f) {
    return f(std::integral_constant<Tiling, tiling>{});
  }
};

/// Scratch memory of one call. The recurrences run one after the other and use the same.
struct GradientLayout {
  std::size_t partial_states = 0, grad_normalized = 0, scale_grad_partials = 0,
              redo_flags = 0;  // bytes of each
  std::size_t bytes() const { return partial_states + grad_normalized + scale_grad_partials + redo_flags; }
};

template <AnyProblem P, class Tilings>
class Gradients {
 public:
  using T = typename P::element;
  using A = Accumulate<T>;
  using Output = kernel::Output;

  Gradients(const BackwardArguments<T>& args, Split split, const device::Properties& device)
      : args_(args), split_(split), device_(device) {
    for_each_output([this]<class R, Tiling tiling>() { this->template make_room<R, tiling>(); });
  }

  /// Whichever outputs are wanted.
  std::size_t workspace_bytes() const { return layout_.bytes(); }

  CallStatus run(Workspace workspace, cudaStream_t stream) {
    if (wanted<Output::dq>() || wanted<Output::dk>() || wanted<Output::dv>())
      if (CallStatus status = validate_workspace(workspace, layout_.bytes()); !status) return status;
    workspace_ = static_cast<unsigned char*>(workspace.data);
    const bool fused = uses_fused_backward();
    const bool scale = args_.dscale_logit != nullptr && args_.shape.heads_kv > 0;
    Launches launches(device_, stream);
    if (fused) with_fused_backward([&]<class Kernel>() { launches.template prepare<Kernel>(); });
    for_each_output([&]<class R, Tiling tiling>() {
      if (has_own_kernels<R::output>())
        recurrence_kernels<R, tiling>(
            plan<R, tiling>(), [&]<class Kernel>(device::Grid) { launches.template prepare<Kernel>(); });
    });
    if (scale) launches.template prepare<kernel::ScaleGrad<T>>();
    const typename Trailing::Params trailing = trailing_params();
    const bool trails = std::any_of(std::begin(trailing.rows), std::end(trailing.rows),
                                    [](const auto& rows) { return rows.view.data != nullptr; });
    if (trails) launches.template prepare<Trailing>();
    if (!launches.status()) return launches.status();

    if constexpr (sm80::has_fused_backward<P>)
      if (fused)
        with_fused_backward(
            [&]<class Kernel>() { launches.template launch<Kernel>({fused_blocks()}, fused_params()); });
    for_each_output([&]<class R, Tiling tiling>() {
      if (!has_own_kernels<R::output>()) return;
      const SplitPlan p = plan<R, tiling>();
      auto given = params<R, tiling>(p);
      if (fused) given.redo_flags = redo_flags();
      recurrence_kernels<R, tiling>(
          p, [&]<class Kernel>(device::Grid grid) { launches.template launch<Kernel>(grid, given); });
    });
    if (scale)
      launches.template launch<kernel::ScaleGrad<T>>(
          {args_.shape.heads_kv},
          {.scale_grad_partials =
               wants_scale_grad() && wanted<scale_grad_output>() ? scale_grad_partials() : nullptr,
           .scale_logit = args_.scale_logit,
           .dscale_logit = args_.dscale_logit,
           .batch = args_.shape.batch,
           .heads_kv = static_cast<int>(args_.shape.heads_kv),
           .partials_per_head = partials_per_head_});
    if (trails) launches.template launch<Trailing>({Trailing::blocks, 3}, trailing);
    return launches.status();
  }

 private:
  static constexpr std::size_t alignment = device_workspace_alignment;
  /// Whose rows have weights, and with them the gradient of scale_logit.
  static constexpr Output scale_grad_output = P::scale == Scale::by_query ? Output::dq : Output::dk;

  template <class F>
  void for_each_output(F f) const {
    const auto with = [&]<Output output>() {
      using R = kernel::Roles<P, output>;
      Tilings::template with<R>(device_, args_.shape, args_.plan, split_,
                                [&](auto tiling) { f.template operator()<R, decltype(tiling)::value>(); });
    };
    with.template operator()<Output::dq>();
    with.template operator()<Output::dk>();
    with.template operator()<Output::dv>();
  }

  template <kernel::AnyRoles R, Tiling tiling>
  SplitPlan plan() const {
    return plan_splits<R, tiling>(args_.shape, args_.plan, split_, device_.multiprocessors);
  }

  static std::size_t aligned(std::size_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

  template <kernel::AnyRoles R, Tiling tiling>
  void make_room() {
    const SplitPlan p = plan<R, tiling>();
    layout_.partial_states = (std::max)(layout_.partial_states, aligned(p.partial_bytes));
    if (p.pieces > 1) allows_fused_ = false;
    if constexpr (sm80::has_fused_backward<P> && P::mask == Mask::causal)
      layout_.redo_flags = aligned(static_cast<std::size_t>(p.batch_heads) * sizeof(int));
    if constexpr (R::has_norm_backward && !sm80::fuses_norm_backward<R, tiling>) {
      const Shape& s = args_.shape;
      const std::int64_t rows = (R::rows_are_queries ? s.seq_q * s.heads_q : s.seq_k * s.heads_kv) *
                                (args_.cu_seqlens_q.given() ? 1 : s.batch);
      layout_.grad_normalized = (std::max)(layout_.grad_normalized,
                                           aligned(static_cast<std::size_t>(rows * R::dims.v) * sizeof(A)));
    }
    if constexpr (P::scale != Scale::none && R::output == scale_grad_output) {
      partials_per_head_ = P::mask == Mask::causal ? p.pieces : p.m_blocks;
      layout_.scale_grad_partials =
          aligned(static_cast<std::size_t>(p.batch_heads * partials_per_head_) * sizeof(double));
    }
  }

  double* scale_grad_partials() const {
    return reinterpret_cast<double*>(workspace_ + layout_.partial_states + layout_.grad_normalized);
  }
  bool wants_scale_grad() const {
    return P::scale != Scale::none && args_.dscale_logit != nullptr && args_.scale_logit.given();
  }

  int* redo_flags() const {
    return reinterpret_cast<int*>(workspace_ + layout_.partial_states + layout_.grad_normalized +
                                  layout_.scale_grad_partials);
  }

  using Trailing = kernel::Trailing<T, 3>;
  typename Trailing::Params trailing_params() const {
    const Shape& s = args_.shape;
    const Offsets &q = args_.cu_seqlens_q, &k = args_.cu_seqlens_k;
    return {{trailing_rows<Trailing>(args_.dq, q, s.batch, s.seq_q, s.heads_q, s.dim_qk),
             trailing_rows<Trailing>(args_.dk, k, s.batch, s.seq_k, s.heads_kv, s.dim_qk),
             trailing_rows<Trailing>(args_.dv, k, s.batch, s.seq_k, s.heads_kv, s.dim_v)}};
  }

  // ---- all gradients together

  template <Occupancy occupancy>
  using FusedBackward =
      std::conditional_t<P::mask == Mask::causal, sm80::Gradient<P, fused_backward_tiling<P, occupancy>>,
                         sm80::GradientApply<P, fused_backward_tiling<P, occupancy>>>;

  std::int64_t fused_blocks() const { return args_.shape.batch * args_.shape.heads_kv; }
  template <class Kernel>
  bool has_room() const {
    return sizeof(typename Kernel::Storage) <= static_cast<std::size_t>(device_.shared_bytes_per_block);
  }
  /// Calls f with the kernel for so many blocks; not at all where the device has no room for one.
  template <class F>
  void with_fused_backward([[maybe_unused]] F f) const {
    if constexpr (sm80::has_fused_backward<P>) {
      using Few = FusedBackward<Occupancy::low>;
      using Many = FusedBackward<Occupancy::high>;
      if constexpr (!std::same_as<Few, Many>)
        if (occupancy_of(fused_blocks(), device_.multiprocessors) == Occupancy::low && has_room<Few>())
          return f.template operator()<Few>();
      if (has_room<Many>()) f.template operator()<Many>();
    }
  }

  /// Whether one kernel makes them all: worth while for two or more.
  bool uses_fused_backward() const {
    if constexpr (sm80::has_fused_backward<P>) {
      const Shape& s = args_.shape;
      // Whether a sequence is cut may follow from the rest of its batch, and must not change its bits then.
      if (args_.plan == Plan::batch_invariant) return false;
      if (!allows_fused_ || s.seq_q == 0 || s.heads_q == 0) return false;
      bool has_kernel = false;
      with_fused_backward([&]<class Kernel>() { has_kernel = true; });
      if (!has_kernel) return false;
      if (P::mask == Mask::causal && s.heads_q != s.heads_kv) return false;
      return wanted<Output::dq>() + wanted<Output::dk>() + wanted<Output::dv>() >= 2;
    } else {
      return false;
    }
  }
  /// Whether an output has kernels of its own: beside the fused kernel, dq of the heads whose redo flag it
  /// sets.
  template <Output output>
  bool has_own_kernels() const {
    if (!uses_fused_backward()) return wanted<output>();
    return P::mask == Mask::causal && output == Output::dq && wanted<output>();
  }
  sm80::GradientParams<P> fused_params() const {
    sm80::GradientParams<P> p;
    for_each_output([&]<class R, Tiling tiling>() {
      auto& part = R::output == Output::dq ? p.dq : R::output == Output::dk ? p.dk : p.dv;
      part = params<R, tiling>(plan<R, tiling>());
    });
    p.final_h = args_.final_h;
    if constexpr (P::mask == Mask::causal) p.redo_flags = redo_flags();
    return p;
  }

  /// Whether there is anything for a recurrence to do.
  template <Output output>
  bool wanted() const {
    const Shape& s = args_.shape;
    if (s.batch == 0 || s.heads_kv == 0) return false;
    if (output == Output::dv && args_.dinitial_state != nullptr) return true;
    if (output == Output::dq ? s.seq_q == 0 || s.heads_q == 0 : s.seq_k == 0) return false;
    if (output == scale_grad_output && wants_scale_grad()) return true;
    return (output == Output::dq   ? args_.dq.data
            : output == Output::dk ? args_.dk.data
                                   : args_.dv.data) != nullptr;
  }

  template <kernel::AnyRoles R, Tiling tiling>
  kernel::RecurrenceParams<T> params(const SplitPlan& plan) const {
    using tile::view;
    const Shape& s = args_.shape;
    const auto q = view(args_.q, s.seq_q, s.heads_q, s.dim_qk);
    const auto k = view(args_.k, s.seq_k, s.heads_kv, s.dim_qk);
    const auto v = view(args_.v, s.seq_k, s.heads_kv, s.dim_v);
    const auto g = view(args_.dout, s.seq_q, s.heads_q, s.dim_v);
    kernel::RecurrenceParams<T> p = recurrence_params<R>(args_, plan);
    if constexpr (R::has_norm_backward) p.layout = tile::StateLayout::transposed;
    if constexpr (R::output == Output::dq) {
      p.a = g;
      p.b = v;
      p.c = k;
      p.norm_input = q;
      p.out = view(args_.dq, s.seq_q, s.heads_q, s.dim_qk);
      p.initial_h = args_.initial_state.h;
    } else if constexpr (R::output == Output::dk) {
      p.a = v;
      p.b = g;
      p.c = q;
      p.norm_input = k;
      p.out = view(args_.dk, s.seq_k, s.heads_kv, s.dim_qk);
      p.initial_h = args_.dfinal_state;
    } else {
      p.a = k;
      p.b = q;
      p.c = g;
      p.out = view(args_.dv, s.seq_k, s.heads_kv, s.dim_v);
      p.initial_h = args_.dfinal_state;
      p.final_h = args_.dinitial_state;
    }
    if (plan.pieces > 1) p.partial_states = reinterpret_cast<A*>(workspace_);
    if constexpr (R::has_norm_backward && !sm80::fuses_norm_backward<R, tiling>)
      p.grad_normalized = view(Tensor<A>{reinterpret_cast<A*>(workspace_ + layout_.partial_states)},
                               R::rows_are_queries ? s.seq_q : s.seq_k,
                               R::rows_are_queries ? s.heads_q : s.heads_kv, R::dims.v);
    if (R::output == scale_grad_output && wants_scale_grad()) p.scale_grad_partials = scale_grad_partials();
    if (!R::rows_are_queries && s.heads_q == 0) {
      // No terms; zeros are copied from nowhere, but not from null.
      p.b.data = p.a.data;
      p.c.data = p.a.data;
    }
    return p;
  }

  const BackwardArguments<T>& args_;
  Split split_;
  const device::Properties& device_;
  GradientLayout layout_;
  int partials_per_head_ = 0;
  bool allows_fused_ = Tilings::tuned;  // no sequence is cut
  unsigned char* workspace_ = nullptr;
};

}  // namespace cottention::host
