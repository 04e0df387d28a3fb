// The CUDA backward pass against the reference: in the emulator, or on a GPU. Compiled once for each element
// type, COTTENTION_TEST_ELEMENT.
//
// Products with many tokens take the emulator long, so lengths, masks, scales, layouts and the rest are tried
// in turn rather than all with all. backward_dims.cpp has other head dims.
#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "calls/backward_left_out.hpp"
#include "support/backward_turns.hpp"
#include "support/catch.hpp"
#include "support/cuda_backward.hpp"

using cottention::Mask;
using namespace support;
using namespace support::backward_turns;

TEST_CASE("Backward: every length is right") {
  std::vector<Case> some;
  for (const std::int64_t n : {0, 1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129})
    some.push_back(of_length(n));
  check_in_turn(some);
}

TEST_CASE("Backward: masked positions get exactly 0 and add nothing") {
  std::vector<Case> some;
  for (const Padding padding : {Padding::left, Padding::right, Padding::middle, Padding::unrelated})
    for (const std::int64_t n : {1, 40})
      some.push_back(
          {.shape = {3, n, n, 2, 1, 0, 0}, .padding = padding, .initial_state = Presence::present});
  check_in_turn(some);
}

TEST_CASE("Backward: packed sequences are right, empty ones included") {
  const Extents heads{.heads_q = 2, .heads_kv = 1};
  check_in_turn(
      {{.shape = heads,
        .lengths_q = {33, 0, 1, 64, 0},
        .offset_type = OffsetType::int32,
        .initial_state = Presence::present},
       {.shape = heads, .lengths_q = {0, 1, 1, 30}, .padding = Padding::middle, .layout = Layout::bhsd},
       {.shape = heads, .lengths_q = {5, 16, 17, 0}, .layout = Layout::aligned_gaps},
       {.shape = heads,
        .lengths_q = {0, 5, 20, 3, 0},
        .lengths_k = {7, 0, 40, 33, 0},
        .initial_state = Presence::present},
       {.shape = heads, .lengths_q = {0, 0}, .initial_state = Presence::present},
       {.shape = heads,
        .lengths_q = {5, 20},
        .trailing_q = 37,
        .trailing_k = 37,
        .offset_type = OffsetType::int32,
        .padding = Padding::middle},
       {.shape = heads, .lengths_q = {0, 20}, .lengths_k = {7, 0}, .trailing_q = 3, .trailing_k = 35}});
}

TEST_CASE("Backward: strided tensors are right and gaps stay untouched") {
  for (const Layout of_outputs : {Layout::bhsd, Layout::aligned_gaps}) {
    std::vector<Case> some;
    for (const Layout of_inputs : {Layout::bhsd, Layout::aligned_gaps})
      some.push_back({.shape = {2, 21, 21, 4, 2, 0, 0}, .layout = of_inputs});
    check_in_turn(some, {.layout = of_outputs});
  }
}

TEST_CASE("Backward: grouped heads are right") {
  std::vector<Case> some;
  constexpr std::int64_t heads[][2] = {{3, 3}, {4, 1}, {6, 2}};
  for (const auto& [heads_q, heads_kv] : heads)
    some.push_back({.shape = {1, 35, 35, heads_q, heads_kv, 0, 0}, .initial_state = Presence::present});
  check_in_turn(some);
}

TEST_CASE("Backward: gradients pass through states") {
  std::vector<Case> some;
  for (const std::int64_t n : {0, 1, 40})
    some.push_back({.shape = {2, n, n, 2, 1, 0, 0}, .initial_state = Presence::present});
  check_in_turn(some);
}

TEST_CASE("Backward: cross-attention is right") {
  constexpr std::int64_t lengths[][2] = {{1, 40}, {40, 1}, {33, 70}, {70, 20}, {0, 20}, {20, 0}};
  std::vector<Case> some;
  for (const auto& [seq_q, seq_k] : lengths)
    some.push_back({.shape = {1, seq_q, seq_k, 2, 1, 0, 0},
                    .padding = seq_k % 20 == 0 ? Padding::right : Padding::none,
                    .initial_state = Presence::present});
  check_in_turn(some);
}

TEST_CASE("Backward: tiny, huge, zero and correlated rows are right") {
  std::vector<Case> some;
  for (const Rows rows : {Rows::correlated, Rows::small, Rows::tiny, Rows::huge, Rows::mixed})
    some.push_back({.shape = {1, 40, 40, 1, 1, 0, 0},
                    .padding = rows == Rows::small ? Padding::middle : Padding::none,
                    .rows = rows});
  check_in_turn(some);
}

TEST_CASE("Backward: rows of the least and greatest lengths are right") {
  // v and dout are such that the gradients are within T's range, too. In fp16, rows of subnormal numbers and
  // of numbers up to 60,000.
  struct End {
    double row, v, dout;
  };
  constexpr End least = narrow ? End{0x1p-21, 1, 0x1p-9} : End{1e-20, 1, 1},
                greatest = narrow ? End{20'000, 0x1p8, 0x1p8} : End{1e10, 1, 1};
  for (const End& end : {least, greatest})
    for_each_in_turn({of_length(40)}, [&]<class P>(const Case& c, Presence final_h) {
      Inputs<T> inputs(c);
      INFO("rows of about " << end.row);
      multiply(inputs.q(), end.row);
      multiply(inputs.k(), end.row);
      multiply(inputs.v(), end.v);
      multiply(inputs.dout(), end.dout);
      for (auto& value : inputs.dfinal_state()) value *= static_cast<cottention::Accumulate<T>>(end.dout);
      check_cuda_backward<P>(inputs, {.final_h = final_h});
    });
}

TEST_CASE("Backward: gradients of rows of zeros are those of norm(x) = x / epsilon") {
  for_each_in_turn({of_length(40), of_length(33)}, []<class P>(const Case& c, Presence final_h) {
    Inputs<T> inputs(c);
    const std::int64_t n = c.shape.seq_q;
    const double others =
        std::same_as<T, cottention::half> ? 0 : 1;  // there they are past fp16's range, or 0
    const auto fill = [](TensorBuffer<T>& x, std::int64_t position, double factor) {
      for (std::int64_t d = 0; d < x.dim(); ++d)
        x.row(position, 0)[d] = from_double<T>(factor * cottention::to_double(x.row(position, 0)[d]));
    };
    for (const std::int64_t position : {std::int64_t{0}, std::int64_t{5}, n - 1}) {
      fill(inputs.q(), position, 0);
      fill(inputs.dout(), position, others);
      fill(inputs.k(), position == 5 ? 6 : position, 0);
      fill(inputs.v(), position == 5 ? 6 : position, others);
    }
    INFO(describe<T>(c));
    auto args = inputs.backward();
    const auto final_state = final_h_of(inputs);
    if (final_h == Presence::present) args.final_h = final_state.data();
    Gradient got = run_cuda_backward<P>(args), expected = gradient(c.mask, c.scale, args);
    for (Gradient* x : {&got, &expected}) {
      level(x->dq, norms_of(inputs.q()), 1);
      level(x->dk, norms_of(inputs.k()), 1);
    }
    check_gradient(inputs, got, expected);
  });
}

TEST_CASE("Backward: what late tokens add does not blur the gradients of early ones") {
  // A kernel that has the sum over all tokens and takes those after a query out of it is left with the
  // rounding of the greatest terms. The lengths change between chunks of 64.
  constexpr std::int64_t early = 64;
  constexpr double ratio = std::same_as<T, cottention::half> ? 0x1p8 : 0x1p12;
  for_each_in_turn({of_length(130), of_length(80), of_length(100)},
                   [&]<class P>(const Case& c, Presence final_h) {
                     if (P::mask == Mask::bidirectional) return;
                     Inputs<T> inputs(c);
                     for (std::int64_t position = 0; position < c.shape.seq_q; ++position)
                       for (TensorBuffer<T>* x : {&inputs.v(), &inputs.dout()}) {
                         const double factor = (position >= early) == (x == &inputs.v()) ? ratio : 1 / ratio;
                         for (std::int64_t d = 0; d < x->dim(); ++d) {
                           T& value = x->row(position, 0)[d];
                           value = from_double<T>(factor * cottention::to_double(value));
                         }
                       }
                     check_cuda_backward<P>(inputs, {.final_h = final_h});
                   });
}

TEST_CASE("Backward: the final state that forward wrote serves") {
  for_each_in_turn({of_length(100)}, []<class P>(Case c, Presence) {
    c.initial_state = Presence::present;
    Inputs<T> inputs(c);
    INFO(describe<T>(c));
    std::vector<cottention::Accumulate<T>> final_h;
    for (const double value : run_cuda_forward<P>(inputs.forward()).h)
      final_h.push_back(static_cast<cottention::Accumulate<T>>(value));
    auto args = inputs.backward();
    args.final_h = final_h.data();
    check_gradient(inputs, run_cuda_backward<P>(args));
  });
}

TEST_CASE("Backward: the gradient of m is right where m is large") {
  for (const float m : {-30.0f, 30.0f, 40.0f})
    for_each_in_turn({of_length(40)}, [m]<class P>(const Case& c, Presence final_h) {
      Inputs<T> inputs(c);
      std::fill(inputs.scale_logit().begin(), inputs.scale_logit().end(), m);
      INFO("m " << m);
      check_cuda_backward<P>(inputs, {.final_h = final_h});
    });
}

TEST_CASE("Backward: each gradient may be wanted alone, and dfinal_state left out") {
  for_each_in_turn({of_length(20), of_length(33), of_length(40)}, []<class P>(Case c, Presence final_h) {
    c.shape.batch = 2;
    c.padding = Padding::unrelated;
    c.initial_state = Presence::present;
    Inputs<T> inputs(c);
    INFO(describe<T>(c));
    auto args = inputs.backward();
    const auto final_state = final_h_of(inputs);
    if (final_h == Presence::present) args.final_h = final_state.data();
    args.dfinal_state = nullptr;
    const Gradient expected = gradient(c.mask, c.scale, args);
    check_gradient(inputs, run_cuda_backward_one_by_one<P>(args), expected);
    run_cuda_backward<P>(args, {.wanted = {}});
  });
}

TEST_CASE("Backward: NaN and infinity reach only the gradients that see them") {
  const double nan = std::numeric_limits<double>::quiet_NaN(),
               infinity = std::numeric_limits<double>::infinity();
  std::size_t turn = 0;
  for (const int operand : {0, 1, 2, 3})
    for (const std::int64_t position : {0, 17, 39})
      for (const Mask mask : {Mask::causal, Mask::bidirectional}) {
        const Case c{.mask = mask, .scale = scales[turn % 3], .shape = {2, 40, 40, 2, 2, 0, 0}};
        const double value = turn / 2 % 2 == 0 ? nan : infinity;
        const Presence final_h = turn / 4 % 2 == 0 ? Presence::absent : Presence::present;
        ++turn;
        with_kind(c, [&]<class P>(const Case& of_kind) {
          check_spread_of<P>(of_kind, operand, position, value, final_h);
        });
      }
}

TEST_CASE("Backward: two calls give the same bits") {
  Case c{.shape = {1, 100, 100, 2, 1, 0, 0}, .padding = Padding::middle, .initial_state = Presence::present};
  for_each_in_turn({c}, []<class P>(const Case& of_kind, Presence) {
    const Inputs<T> inputs(of_kind);
    INFO(describe<T>(of_kind));
    CHECK(same_bits(run_cuda_backward<P>(inputs.backward()), run_cuda_backward<P>(inputs.backward())));
  });
}
