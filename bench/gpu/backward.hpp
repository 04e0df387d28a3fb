// Rows of `backward`, alone and after `forward`.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <cottention/backward.cuh>

#include "forward.hpp"

namespace bench {

enum class Timed { backward, forward_and_backward };

/// Whether forward leaves its final state to backward.
enum class FinalH { kept, dropped };

/// Inputs, gradients and what forward leaves of one call.
template <cottention::Element T>
struct BackwardBuffers {
  using A = cottention::Accumulate<T>;

  explicit BackwardBuffers(const Size& s, std::uint32_t seed)
      : in(s, seed),
        dout(random_buffer<T>(s.batch * s.seq * s.heads * s.dim, seed + 3)),
        dq(s.batch * s.seq * s.heads * s.dim),
        dk(s.batch * s.seq * s.heads * s.dim),
        dv(s.batch * s.seq * s.heads * s.dim),
        dm(s.heads),
        h(s.batch * s.heads * s.dim * s.dim) {}

  cottention::ForwardArguments<T> forward(const Size& s, FinalH final_h) const {
    auto args = in.arguments(s);
    if (final_h == FinalH::kept) args.final_state.h = h.data();
    return args;
  }
  cottention::BackwardArguments<T> backward(const Size& s, FinalH final_h) const {
    cottention::BackwardArguments<T> args;
    args.shape = {s.batch, s.seq, s.seq, s.heads, s.heads, s.dim, s.dim};
    args.q = {in.q.data()};
    args.k = {in.k.data()};
    args.v = {in.v.data()};
    args.dout = {dout.data()};
    args.dq = {dq.data()};
    args.dk = {dk.data()};
    args.dv = {dv.data()};
    args.scale_logit = in.m.data();
    args.dscale_logit = dm.data();
    if (final_h == FinalH::kept) args.final_h = h.data();
    return args;
  }

  void poison() {
    for (Buffer<T>* x : {&dq, &dk, &dv}) x->poison();
    dm.poison();
  }
  bool complete() const { return all_finite(dq) && all_finite(dk) && all_finite(dv) && all_finite(dm); }

  ForwardBuffers<T> in;
  Buffer<T> dout, dq, dk, dv;
  Buffer<A> dm, h;
  Buffer<unsigned char> forward_scratch, backward_scratch;
};

template <cottention::AnyProblem P, cottention::Tiling... tiling>
Result measure_backward(const Conditions& conditions, Size s, double bytes, Timed timed, FinalH final_h,
                        cottention::Split split) {
  using T = typename P::element;
  if (conditions.emulated) s = {1, 1, std::min<std::int64_t>(s.seq, 40), s.dim};
  Result result;
  result.sets = sets_of(conditions, bytes);
  std::vector<BackwardBuffers<T>> buffers;
  const auto forward = [&](BackwardBuffers<T>& set, cudaStream_t stream) {
    require_ok(cottention::forward<P>(set.forward(s, final_h),
                                      {set.forward_scratch.data(), set.forward_scratch.bytes()}, stream));
  };
  for (int i = 0; i < result.sets; ++i) {
    BackwardBuffers<T>& set = buffers.emplace_back(s, static_cast<std::uint32_t>(4 * i + 1));
    set.forward_scratch = Buffer<unsigned char>(
        static_cast<std::int64_t>(cottention::workspace_bytes<P>(set.forward(s, final_h))));
    set.backward_scratch = Buffer<unsigned char>(static_cast<std::int64_t>(
        cottention::workspace_bytes<P, tiling...>(set.backward(s, final_h), split)));
    forward(set, nullptr);  // for its final state
  }
  const auto call = [&](int i, cudaStream_t stream) {
    BackwardBuffers<T>& set = buffers[static_cast<std::size_t>(i)];
    if (timed == Timed::forward_and_backward) forward(set, stream);
    require_ok(cottention::backward<P, tiling...>(set.backward(s, final_h),
                                                  {set.backward_scratch.data(), set.backward_scratch.bytes()},
                                                  stream, split));
  };
  result.timing = time_calls(conditions.pace, result.sets, call);
  buffers[0].poison();
  call(0, nullptr);
  require_success(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  result.complete = buffers[0].complete();
  return result;
}

/// q, k, v and dout read once, dq, dk and dv written once; forward before that reads and writes four.
template <class T>
double backward_bytes(const Size& s, Timed timed) {
  return (timed == Timed::backward ? 7.0 : 11.0) * static_cast<double>(s.batch * s.heads * s.seq) * s.dim *
         sizeof(T);
}

template <cottention::AnyProblem P, cottention::Tiling... tiling>
void add_backward(std::vector<Row>& rows, const Size& s, Timed timed, const std::string& variant,
                  FinalH final_h = FinalH::kept, cottention::Split split = {}) {
  using T = typename P::element;
  const std::string call = timed == Timed::backward ? "backward_" : "forward_and_backward_";
  const std::string mask = P::mask == cottention::Mask::causal ? "causal" : "bidirectional";
  const double bytes = backward_bytes<T>(s, timed);
  rows.push_back({call + mask + "/" + cottention::element_name<T> + "/" + in_words(s), variant, bytes,
                  [=](const Conditions& conditions) {
                    return measure_backward<P, tiling...>(conditions, s, bytes, timed, final_h, split);
                  }});
}

/// Sizes of one Problem: by default with the final state that forward leaves, and as a variant without.
template <cottention::AnyProblem P>
void add_backward_sizes(std::vector<Row>& rows, const std::vector<Size>& sizes) {
  for (const Size& s : sizes) {
    for (const Timed timed : {Timed::backward, Timed::forward_and_backward})
      add_backward<P>(rows, s, timed, default_variant);
    add_backward<P>(rows, s, Timed::backward, "without_final_h", FinalH::dropped);
  }
}

/// The rows that every element type has.
template <cottention::Element T>
void add_backward_rows(std::vector<Row>& rows) {
  using namespace cottention;
  add_backward_sizes<Problem<T, HeadDim{64, 64}, Mask::causal, Scale::by_key>>(
      rows, {{8, 16, 2048, 64}, long_sequence});
  add_backward_sizes<Problem<T, HeadDim{128, 128}, Mask::causal, Scale::by_key>>(
      rows, {{32, 16, 512, 128}, {4, 32, 8192, 128}});
  add_backward_sizes<Problem<T, HeadDim{64, 64}, Mask::bidirectional, Scale::by_key>>(rows,
                                                                                      {{8, 16, 2048, 64}});
}

}  // namespace bench
