// Cases of backward with the Problems of one element type, COTTENTION_TEST_ELEMENT, in turn.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "support/catch.hpp"
#include "support/cuda_backward.hpp"
#include "support/many_blocks.hpp"

namespace support::backward_turns {

using cottention::HeadDim, cottention::Mask, cottention::Problem, cottention::Scale;

using T = COTTENTION_TEST_ELEMENT;

inline constexpr HeadDim odd{24, 40};
/// Gradients of 16-bit elements come from one kernel where dim_qk = dim_v; causal ones if heads are not in
/// groups.
inline constexpr HeadDim square{24, 24};
inline constexpr bool has_joint_kernel = sizeof(T) == 2;
/// Scales that gradients of `odd` are tried with, made one by one; those of `square` have all.
#ifdef COTTENTION_TEST_WIDE
inline constexpr bool odd_has_every_scale = true;
#else
inline constexpr bool odd_has_every_scale = !has_joint_kernel;
#endif

template <int qk, int v, Mask mask, Scale scale = Scale::by_key>
using Of = Problem<T, HeadDim{qk, v}, mask, scale>;

/// For lengths that would take wider heads long.
using Narrow = Of<8, 8, Mask::causal>;
using NarrowBidirectional = Of<8, 8, Mask::bidirectional>;

using Square = Of<64, 64, Mask::causal>;
using SquareBidirectional = Of<64, 64, Mask::bidirectional>;

/// Calls `f` with a Problem of every scale.
template <HeadDim D, Mask mask, class F>
void for_each_scale(F f) {
  f.template operator()<Of<D.qk, D.v, mask, Scale::none>>();
  f.template operator()<Of<D.qk, D.v, mask, Scale::by_key>>();
  f.template operator()<Of<D.qk, D.v, mask, Scale::by_query>>();
}

inline constexpr Scale scales[] = {Scale::none, Scale::by_key, Scale::by_query};

/// Calls `f<P>(c)` with the Problem of the case's mask and scale: with the head dims of `odd`, and where
/// there is a joint kernel, so that this serves, too.
template <class F>
void with_kind(Case c, F f) {
  c.shape.dim_qk = odd.qk;
  c.shape.dim_v = odd.v;
  const auto choose = [&]<class P>() {
    if (c.mask == P::mask && c.scale == P::scale) f.template operator()<P>(c);
  };
  if constexpr (odd_has_every_scale) {
    for_each_scale<odd, Mask::causal>(choose);
    for_each_scale<odd, Mask::bidirectional>(choose);
  } else {
    choose.template operator()<Of<odd.qk, odd.v, Mask::causal>>();
    choose.template operator()<Of<odd.qk, odd.v, Mask::bidirectional>>();
  }
  if constexpr (has_joint_kernel) {
    c.shape.dim_v = square.v;
    for_each_scale<square, Mask::bidirectional>(choose);
    c.shape.heads_kv = c.shape.heads_q;
    for_each_scale<square, Mask::causal>(choose);
  }
}

/// Every case with both masks where it may be causal, with the scales and few or many blocks in turn; without
/// and with the final state.
template <class F>
void for_each_in_turn(const std::vector<Case>& some, F f) {
  std::size_t turn = 0;
  for (Case c : some)
    for (const Mask mask : {Mask::causal, Mask::bidirectional}) {
      if (mask == Mask::causal && (c.shape.seq_q != c.shape.seq_k || !c.lengths_k.empty())) continue;
      c.mask = mask;
      c.scale = scales[turn % 3];
      std::optional<ManyBlocks> many_blocks;
      if (turn++ / 2 % 2 != 0) many_blocks.emplace();
      for (const Presence final_h : {Presence::absent, Presence::present})
        with_kind(c, [&]<class P>(const Case& of_kind) { f.template operator()<P>(of_kind, final_h); });
    }
}

inline void check_in_turn(const std::vector<Case>& some, const BackwardManner& manner = {}) {
  for_each_in_turn(some, [&]<class P>(const Case& c, Presence final_h) {
    BackwardManner with_state = manner;
    with_state.final_h = final_h;
    check_cuda_backward<P>(c, with_state);
  });
}

inline constexpr bool narrow = std::same_as<T, cottention::half>;

inline void multiply(TensorBuffer<T>& x, double factor) {
  for (std::int64_t row = 0; row < x.positions() * x.heads(); ++row)
    for (std::int64_t d = 0; d < x.dim(); ++d) {
      T& value = x.row(row / x.heads(), row % x.heads())[d];
      const double product = cottention::to_double(value) * factor;
      value = from_double<T>(narrow ? std::clamp(product, -6e4, 6e4) : product);
    }
}

inline Case of_length(std::int64_t n) { return {.shape = {1, n, n, 1, 1, odd.qk, odd.v}}; }

/// Runs the case with `value` in the middle of one row of q, k, v or dout, by the number `operand`: what is
/// not finite, and where, must be as in the reference.
template <class P>
void check_spread_of(const Case& c, int operand, std::int64_t position, double value, Presence final_h) {
  Inputs<T> inputs(c);
  INFO(describe<T>(c) << ", operand " << operand << ", position " << position << ", " << value
                      << (final_h == Presence::present ? ", final_h given" : ""));
  TensorBuffer<T>* const operands[] = {&inputs.q(), &inputs.k(), &inputs.v(), &inputs.dout()};
  operands[operand]->row(position, 0)[operands[operand]->dim() / 2] = from_double<T>(value);
  auto args = inputs.backward();
  const auto final_state = final_h_of(inputs);
  if (final_h == Presence::present) args.final_h = final_state.data();
  const Gradient got = run_cuda_backward<P>(args), expected = gradient(c.mask, c.scale, args);
  const double bound = bounds<T>.gradient;
  check_spread(got.dq, expected.dq, c.shape.dim_qk, bound);
  check_spread(got.dk, expected.dk, c.shape.dim_qk, bound);
  check_spread(got.dv, expected.dv, c.shape.dim_v, bound);
  const std::vector<double> size = size_of_dscale_logit(inputs, expected);
  for (std::size_t h = 0; h < size.size(); ++h) {
    CHECK(std::isfinite(got.dscale_logit[h]) == std::isfinite(expected.dscale_logit[h]));
    if (std::isfinite(size[h]))
      CHECK(std::fabs(got.dscale_logit[h] - expected.dscale_logit[h]) <= bound * size[h]);
  }
  check_spread(got.dinitial_state, expected.dinitial_state, c.shape.dim_qk * c.shape.dim_v, bound);
}

}  // namespace support::backward_turns
