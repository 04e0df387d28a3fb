// Rows of `backward`, alone and after `forward`.
#pragma once

#include <cstdint>
#include <string>

#include <cottention/backward.cuh>

#include "forward.hpp"

namespace bench {

/// Whether forward leaves its final state to backward.
enum class FinalH { kept, dropped };

/// Inputs, gradients and what forward leaves of one call.
template <cottention::Element T>
struct BackwardBuffers {
  BackwardBuffers(const Size& s, Batch batch, Walks timed, FinalH final_h, std::uint32_t seed)
      : walks(timed),
        in(s, batch, seed),
        dout(random_buffer<T>(in.count, seed + 3)),
        dq(in.count),
        dk(in.count),
        dv(in.count),
        dm(s.heads) {
    if (final_h == FinalH::kept) in.hold_state();
  }

  cottention::ForwardArguments<T> forward() const {
    auto args = in.arguments();
    args.final_state.h = in.h.data();
    return args;
  }
  cottention::BackwardArguments<T> backward() const {
    cottention::BackwardArguments<T> args;
    args.shape = in.shape();
    args.q = {in.q.data()};
    args.k = {in.k.data()};
    args.v = {in.v.data()};
    args.dout = {dout.data()};
    args.dq = {dq.data()};
    args.dk = {dk.data()};
    args.dv = {dv.data()};
    args.scale_logit = in.m.data();
    args.dscale_logit = dm.data();
    args.cu_seqlens_q = args.cu_seqlens_k = in.offsets.data();
    args.final_h = in.h.data();
    return args;
  }
  cottention::Workspace workspace() const { return {scratch.data(), scratch.bytes()}; }

  /// `backward` alone has the inputs of forward and its final state for inputs; o is not among its tensors.
  Memory memory() const {
    Memory m = in.memory();
    m.inputs += bytes_of(dout);
    if (walks == Walks::backward) {
      m.inputs += m.states;
      m.outputs = m.states = m.workspace = 0;
    }
    m.outputs += bytes_of(dq, dk, dv, dm);
    m.workspace += bytes_of(scratch);
    return m;
  }
  void poison() {
    for (Buffer<T>* x : {&dq, &dk, &dv}) x->poison();
    dm.poison();
  }
  bool complete() const { return all_finite(dq) && all_finite(dk) && all_finite(dv) && all_finite(dm); }

  Walks walks;
  ForwardBuffers<T> in;
  Buffer<T> dout, dq, dk, dv;
  Buffer<cottention::Accumulate<T>> dm;
  Buffer<unsigned char> scratch;
};

/// Walks::backward, or forward and backward together.
template <cottention::AnyProblem P>
Subject backward_subject(const Conditions& conditions, Size s, Batch batch, const Work& work, Walks walks,
                         FinalH final_h, cottention::Split split) {
  using Set = BackwardBuffers<typename P::element>;
  if (conditions.emulated) s = emulated(s, batch, 1, 40);
  const auto forward = [](const Set& set, cudaStream_t stream) {
    require_ok(cottention::forward<P>(set.forward(), set.in.workspace(), stream));
  };
  return subject_on_sets(
      conditions, work.bytes,
      [&](std::uint32_t seed) {
        Set set(s, batch, walks, final_h, seed);
        set.in.scratch = scratch_of(cottention::workspace_bytes<P>(set.forward()));
        set.scratch = scratch_of(cottention::workspace_bytes<P>(set.backward(), split));
        forward(set, nullptr);  // for its final state
        return set;
      },
      [=](const Set& set, cudaStream_t stream) {
        if (walks == Walks::forward_and_backward) forward(set, stream);
        require_ok(cottention::backward<P>(set.backward(), set.workspace(), stream, split));
      });
}

template <cottention::AnyProblem P>
void add_backward(Rows& rows, const Size& s, Walks walks, const std::string& variant,
                  FinalH final_h = FinalH::kept, cottention::Split split = {}, Batch batch = Batch::even) {
  const std::string call = walks == Walks::backward ? "backward_" : "forward_and_backward_";
  const Work work = work_of<P>(walks, s, batch);
  rows.add({call + (batch == Batch::packed ? "packed_" : "") + of_problem<P>(s), variant, work,
            [=](const Conditions& conditions) {
              return backward_subject<P>(conditions, s, batch, work, walks, final_h, split);
            }});
}

}  // namespace bench
