// The states that the wgmma engine's kernel of all gradients starts from: S after each piece of a sequence,
// and D behind it.
#pragma once

#include <cottention/device/thread.cuh>
#include <cottention/host/engine.cuh>
#include <cottention/host/recurrence.cuh>
#include <cottention/kernel/prefix.cuh>
#include <cottention/tuning/sm90.cuh>

namespace cottention::host {

/// S is summed as a forward call of this engine sums it, so that the kernel takes the very products away
/// again; D as for dk. Where sequences are whole, D is the caller's, and S too if the call has final_h.
template <AnyProblem P>
class PieceStates {
 public:
  using T = typename P::element;
  using A = Accumulate<T>;
  using OfS = kernel::Roles<P, recurrence::Output::o>;
  using OfD = kernel::Roles<P, recurrence::Output::dk>;
  static constexpr Tiling tiling_of_s = tuning::wgmma_recurrence<OfS>,
                          tiling_of_d = tuning::wgmma_recurrence<OfD>;

  PieceStates(const BackwardArguments<T>& args, const SplitPlan& splits) : args_(args), splits_(splits) {}

  /// Elements of all partial states, whether the call has final_h or not.
  std::int64_t elements() const { return elements_of_one() * (splits_.pieces > 1 ? 2 : 1); }
  /// The partial states in `memory`; null: there are none.
  A* of_s(A* memory) const { return needs_s() ? memory : nullptr; }
  A* of_d(A* memory) const { return splits_.pieces > 1 ? memory + elements_of_one() : nullptr; }

  /// Calls `each` with the kernels that write them. of_dk: the parameters of dk's recurrence.
  template <class Each, class OfDk>
  void kernels(A* memory, Each each, OfDk of_dk) const {
    if (needs_s())
      state_kernels<OfS, tiling_of_s>(splits_, [&]<class Kernel>(device::Grid grid) {
        each.template operator()<Kernel>(grid, [&] { return params_of_s(memory); });
      });
    if (splits_.pieces > 1)
      state_kernels<OfD, tiling_of_d>(
          splits_, [&]<class Kernel>(device::Grid grid) { each.template operator()<Kernel>(grid, of_dk); });
  }

 private:
  bool needs_s() const { return splits_.pieces > 1 || args_.final_h == nullptr; }
  std::int64_t elements_of_one() const {
    return splits_.batch_heads * splits_.pieces * splits_.partial_elements;
  }
  kernel::RecurrenceParams<T> params_of_s(A* memory) const {
    const Shape& s = args_.shape;
    auto p = recurrence_params<OfS>(args_, splits_);
    set_operands<OfS>(p, {tile::view(args_.q, s.seq_q, s.heads_q, s.dim_qk),
                          tile::view(args_.k, s.seq_k, s.heads_kv, s.dim_qk),
                          tile::view(args_.v, s.seq_k, s.heads_kv, s.dim_v),
                          {}});
    p.initial_h = args_.initial_state.h;
    p.partial_states = of_s(memory);
    p.sums_last_piece = args_.final_h == nullptr;
    return p;
  }

  const BackwardArguments<T>& args_;
  const SplitPlan& splits_;
};

}  // namespace cottention::host
