// A call of `forward`: its kernels and what they are given.
#pragma once

#include <cstddef>

#include <cottention/choice.hpp>
#include <cottention/host/launches.cuh>
#include <cottention/host/recurrence.cuh>
#include <cottention/host/trailing.cuh>
#include <cottention/kernel/count.cuh>

namespace cottention::host {

template <AnyProblem P>
using ForwardRoles = kernel::Roles<P, recurrence::Output::o>;
template <AnyProblem P, Tiling... given>
using ForwardRows = RecurrenceRows<ForwardRoles<P>, given...>;

template <AnyProblem P, Tiling tiling>
class ForwardCall {
 public:
  using T = typename P::element;
  using R = ForwardRoles<P>;

  ForwardCall(const ForwardArguments<T>& args, Split split, const device::Properties& device,
              TrailingRows trailing = TrailingRows::cleared)
      : args_(args),
        splits_(plan_splits<R, tiling>({args.shape, args.plan, split, {}}, device.multiprocessors)),
        trailing_(trailing) {}

  std::size_t workspace_bytes() const { return splits_.partial_bytes; }
  std::size_t used_bytes() const { return workspace_bytes(); }

  ForwardChoice choice() const {
    ForwardChoice choice{.workspace_bytes = workspace_bytes()};
    if (has_recurrence()) choice.o = {.tiling = tiling, .pieces = splits_.pieces};
    return choice;
  }

  template <class Each>
  void kernels(void* workspace, Each each) const {
    const Shape& s = args_.shape;
    const auto of_recurrence = [&] { return params(workspace); };
    if (has_recurrence())
      recurrence_kernels<R, tiling>(splits_, [&]<class Kernel>(device::Grid grid) {
        each.template operator()<Kernel>(grid, of_recurrence);
      });
    if (s.batch > 0 && args_.final_state.count != nullptr)
      each.template operator()<kernel::Count>({s.batch}, [&] {
        return kernel::Count::Params{
            tile::view(args_.cu_seqlens_k), args_.key_mask, s.seq_k,      args_.initial_state.count,
            args_.final_state.count,        read_slots(),   write_slots()};
      });
    if (trailing_ == TrailingRows::cleared)
      TrailingCall<T, ForwardArguments<T>>(args_).kernels(workspace, each);
  }

 private:
  bool has_recurrence() const {
    const Shape& s = args_.shape;
    return splits_.batch_heads > 0 && ((s.seq_q > 0 && s.heads_q > 0) || args_.final_state.h != nullptr);
  }

  tile::SlotsView read_slots() const { return {args_.read_slot, args_.pool_slots}; }
  tile::SlotsView write_slots() const { return {args_.write_slot, args_.pool_slots}; }

  kernel::RecurrenceParams<T> params(void* workspace) const {
    const Shape& s = args_.shape;
    auto p = recurrence_params<R>(args_, splits_);
    set_operands<R>(p, {tile::view(args_.q, s.seq_q, s.heads_q, s.dim_qk),
                        tile::view(args_.k, s.seq_k, s.heads_kv, s.dim_qk),
                        tile::view(args_.v, s.seq_k, s.heads_kv, s.dim_v),
                        {}});
    p.out = tile::view(args_.o, s.seq_q, s.heads_q, s.dim_v);
    p.initial_h = args_.initial_state.h;
    p.final_h = args_.final_state.h;
    p.read_slots = read_slots();
    p.write_slots = write_slots();
    p.partial_states = splits_.pieces > 1 ? static_cast<Accumulate<T>*>(workspace) : nullptr;
    return p;
  }

  const ForwardArguments<T>& args_;
  SplitPlan splits_;
  TrailingRows trailing_;
};

}  // namespace cottention::host
