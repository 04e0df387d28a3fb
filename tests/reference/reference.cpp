// The oracle itself: hand-computed values and gradients, and forms that agree.
#include <cottention/reference.hpp>

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/error.hpp"
#include "support/oracle.hpp"
#include "support/part.hpp"
#include "support/problem_generator.hpp"
#include "support/reference_cases.hpp"

using cottention::any_head_dim, cottention::BackwardArguments, cottention::ForwardArguments, cottention::Mask,
    cottention::Problem, cottention::Scale;
using cottention::reference::Gradient, cottention::reference::Output;
using support::Case, support::definition, support::Inputs, support::Presence, support::relative_error,
    support::small_cases;
using Values = std::vector<double>;

namespace {

/// Two tokens, one head, dim_qk 2 and dim_v 1, with rows of whole norm:
///
///     norm(q) = (3/5, 4/5), (1, 0)      norm(k) = (0, 1), (5/13, 12/13)      v = 5, 26
///
/// Scores norm(q_i) . norm(k_j):   4/5   63/65
///                                 0     5/13
struct TwoTokens {
  double q[4] = {3, 4, 7, 0}, k[4] = {0, 2, 5, 12}, v[2] = {5, 26}, dout[2] = {1, 1};
  double m[1] = {0};
  double h[2] = {1, 10};
  std::int64_t count[1] = {0};
  std::uint8_t mask[2] = {1, 1};

  template <class Arguments>
  Arguments inputs() const {
    Arguments args;
    args.shape = {.batch = 1, .seq_q = 2, .seq_k = 2, .heads_q = 1, .heads_kv = 1, .dim_qk = 2, .dim_v = 1};
    args.q = {q, {}};
    args.k = {k, {}};
    args.v = {v, {}};
    return args;
  }
  ForwardArguments<double> forward() const { return inputs<ForwardArguments<double>>(); }
  BackwardArguments<double> backward() const {
    auto args = inputs<BackwardArguments<double>>();
    args.dout = {dout, {}};
    return args;
  }
};

/// Both forms of the forward pass, which must agree, on values known by hand.
void check_by_hand(Mask mask, Scale scale, const ForwardArguments<double>& args, const Values& o,
                   const Values& h, std::int64_t count) {
  for (const Output& out : {support::definition(mask, scale, args), support::recurrence(mask, scale, args)}) {
    CHECK(relative_error(out.o, o) <= 1e-15);
    CHECK(relative_error(out.h, h) <= 1e-15);
    CHECK(out.count == std::vector<std::int64_t>{count});
  }
}

}  // namespace

TEST_CASE("The reference gives the values that two tokens give on paper") {
  const TwoTokens t;
  // o_0 = 4/5 5 = 4.   o_1 = 0 5 + 5/13 26 = 10.   h = (0, 1) 5 + (5/13, 12/13) 26 = (10, 29).
  check_by_hand(Mask::causal, Scale::none, t.forward(), {4, 10}, {10, 29}, 2);
  // Bidirectional, o_0 sees the second key too: 4 + 63/65 26 = 4 + 126/5 = 29.2.
  check_by_hand(Mask::bidirectional, Scale::none, t.forward(), {29.2, 10}, {10, 29}, 2);
}

TEST_CASE("The reference weighs values by key, rows by query, with the counts that paper gives") {
  TwoTokens t;
  auto args = t.forward();
  args.scale_logit = t.m;

  // sigmoid(0) = 1/2, so w = n^(-1/2), and counts start at 3: n = 4, 5 and w = 1/2, 1/sqrt(5).
  t.count[0] = 3;
  const Values zero = {0, 0};
  args.initial_state = {zero.data(), t.count};
  const double r = 1 / std::sqrt(5.0);
  check_by_hand(Mask::causal, Scale::by_key, args, {2, 10 * r}, {10 * r, 2.5 + 24 * r}, 5);
  check_by_hand(Mask::causal, Scale::by_query, args, {2, 10 * r}, {10, 29}, 5);
  check_by_hand(Mask::bidirectional, Scale::by_key, args, {29.2 * r, 10 * r}, {10 * r, 29 * r}, 5);
  check_by_hand(Mask::bidirectional, Scale::by_query, args, {29.2 * r, 10 * r}, {10, 29}, 5);

  // sigmoid(100) = 1 in double, so w = 1/n, here 1 and 1/2; the second query sees the first key with score 0.
  // With q_1 = q_0 it sees it with 4/5: by key 4/5 5 + 63/65 26/2 = 4 + 12.6; by query (4 + 25.2)/2.
  t.m[0] = 100;
  t.q[2] = 6;
  t.q[3] = 8;
  args.initial_state = {};
  check_by_hand(Mask::causal, Scale::by_key, args, {4, 16.6}, {5, 17}, 2);
  check_by_hand(Mask::causal, Scale::by_query, args, {4, 14.6}, {10, 29}, 2);
}

TEST_CASE("The reference starts from an initial state and leaves out masked tokens, as on paper") {
  TwoTokens t;
  auto args = t.forward();
  // h_0 = (1, 10) adds 3/5 + 4/5 10 = 8.6 to o_0, and 1 to o_1.
  args.initial_state = {t.h, t.count};
  check_by_hand(Mask::causal, Scale::none, args, {12.6, 11}, {11, 39}, 2);

  // By query the initial state's part is weighted with the rest of the row: w = 1, 1/2.
  t.m[0] = 100;
  args.scale_logit = t.m;
  check_by_hand(Mask::causal, Scale::by_query, args, {12.6, 5.5}, {11, 39}, 2);

  // Without the first key: counts are 0, 1; o_0 is the initial state's 8.6, o_1 = 1 + 5/13 26 = 11.
  t.mask[0] = 0;
  t.k[0] = t.v[0] = std::numeric_limits<double>::quiet_NaN();
  args.key_mask = t.mask;
  check_by_hand(Mask::causal, Scale::by_key, args, {8.6, 11}, {11, 34}, 1);

  // Without the first query its row is 0.
  t.q[0] = std::numeric_limits<double>::infinity();
  args.query_mask = t.mask;
  check_by_hand(Mask::causal, Scale::by_key, args, {0, 11}, {11, 34}, 1);
}

TEST_CASE("A row of norm below 1e-12 is divided by 1e-12, and a zero row stays zero") {
  TwoTokens t;
  t.q[0] = 3e-15;  // norm 5e-15: (3e-3, 4e-3), so that o_0 = 4e-3 5
  t.q[1] = 4e-15;
  check_by_hand(Mask::causal, Scale::none, t.forward(), {0.02, 10}, {10, 29}, 2);
  t.q[0] = t.q[1] = 0;
  t.k[2] = t.k[3] = 0;
  check_by_hand(Mask::causal, Scale::none, t.forward(), {0, 0}, {0, 5}, 2);
}

TEST_CASE("Gradients of one token are those that paper gives") {
  TwoTokens t;
  auto args = t.backward();
  args.shape.seq_q = args.shape.seq_k = 1;
  using P = Problem<double, any_head_dim, Mask::causal, Scale::by_key>;
  // n = 2 and m = 0: w = r = 1/sqrt(2). With g = 1:
  //   dq^ = norm(k) w v = (0, 5 r); less its part 4 r along (3/5, 4/5), over 5: (-0.48 r, 0.36 r)
  //   dk^ = norm(q) w v = (3 r, 4 r); less its part 4 r along (0, 1), over 2:  (1.5 r, 0)
  //   dv  = w 4/5       dm = -1/4 ln 2 (4 r)       dh_0 = norm(q) g
  t.count[0] = 1;
  args.scale_logit = t.m;
  const Values zero = {0, 0};
  args.initial_state = {zero.data(), t.count};
  const double r = 1 / std::sqrt(2.0);
  const Gradient key = cottention::reference::backward<P>(args);
  CHECK(relative_error(key.dq, {-0.48 * r, 0.36 * r}) <= 1e-15);
  CHECK(relative_error(key.dk, {1.5 * r, 0}) <= 1e-15);
  CHECK(relative_error(key.dv, {0.8 * r}) <= 1e-15);
  CHECK(relative_error(key.dscale_logit, {-std::log(2.0) * r}) <= 1e-15);
  CHECK(relative_error(key.dinitial_state, {0.6, 0.8}) <= 1e-15);

  // By query the weight is on g instead, so that it reaches dh_0.
  using Q = Problem<double, any_head_dim, Mask::causal, Scale::by_query>;
  const Gradient query = cottention::reference::backward<Q>(args);
  CHECK(relative_error(query.dq, {-0.48 * r, 0.36 * r}) <= 1e-15);
  CHECK(relative_error(query.dk, {1.5 * r, 0}) <= 1e-15);
  CHECK(relative_error(query.dv, {0.8 * r}) <= 1e-15);
  CHECK(relative_error(query.dscale_logit, {-std::log(2.0) * r}) <= 1e-15);
  CHECK(relative_error(query.dinitial_state, {0.6 * r, 0.8 * r}) <= 1e-15);
}

TEST_CASE("The definition and the recurrence agree") {
  std::vector<Case> cases = small_cases();
  for (const Mask mask : {Mask::causal, Mask::bidirectional})
    cases.push_back(
        {.mask = mask, .shape = {2, 300, 300, 2, 1, 24, 40}, .padding = support::Padding::middle});
  for (const Case& c : cases) {
    const Inputs<double> inputs(c);
    INFO(support::describe<double>(c));
    const Output out = definition(c, inputs.forward());
    const Output recurrent = support::recurrence(c.mask, c.scale, inputs.forward());
    CHECK(relative_error(recurrent.o, out.o) <= 1e-15);
    CHECK(relative_error(recurrent.h, out.h) <= 1e-15);
    CHECK(recurrent.count == out.count);
  }
}

TEST_CASE("In the reference a prefix's state and the rest make the whole") {
  for (const Scale scale : {Scale::none, Scale::by_key, Scale::by_query}) {
    const Case c{.scale = scale, .shape = {1, 40, 40, 4, 2, 5, 7}, .padding = support::Padding::unrelated};
    const Inputs<double> inputs(c);
    const auto args = inputs.forward();
    const Output whole = definition(c, args);
    for (const std::int64_t cut : {0, 1, 17, 40}) {
      INFO(support::describe<double>(c) << ", cut at " << cut);
      const Output head = definition(c, support::part(args, 0, {0, cut}, {0, cut}));
      auto rest = support::part(args, 0, {cut, 40}, {cut, 40});
      rest.initial_state = {head.h.data(), head.count.data()};
      const Output tail = definition(c, rest);
      Values o = head.o;
      support::append(o, tail.o);
      CHECK(relative_error(o, whole.o) <= 1e-15);
      CHECK(relative_error(tail.h, whole.h) <= 1e-15);
      CHECK(tail.count == whole.count);
    }
  }
}

TEST_CASE("In the reference every sequence of a batch is computed as if alone") {
  for (const Case& c : small_cases()) {
    const Inputs<double> inputs(c);
    INFO(support::describe<double>(c));
    const auto args = inputs.forward();
    const Output out = definition(c, args);
    Values o, h;
    for (std::int64_t b = 0; b < args.shape.batch; ++b) {
      const Output alone = definition(c, support::sequence(args, b));
      support::append(o, alone.o);
      support::append(h, alone.h);
    }
    REQUIRE(o.size() <= out.o.size());
    o.resize(out.o.size());  // rows of trailing tokens are zeros
    CHECK(o == out.o);
    CHECK(h == out.h);
  }
}

TEST_CASE("The reference makes up no weights where scale_logit is null: they are NaN") {
  const TwoTokens t;
  for (const Mask mask : {Mask::causal, Mask::bidirectional})
    for (const Scale scale : {Scale::none, Scale::by_key, Scale::by_query}) {
      const bool missing = scale != Scale::none;
      CHECK(std::isnan(support::definition(mask, scale, t.forward()).o.back()) == missing);
      CHECK(std::isnan(support::recurrence(mask, scale, t.forward()).o.back()) == missing);
      CHECK(std::isnan(support::gradient(mask, scale, t.backward()).dv.back()) == missing);
    }
}

TEST_CASE("In the reference a NaN reaches only the outputs that see it") {
  for (const Mask mask : {Mask::causal, Mask::bidirectional}) {
    const Case c{.mask = mask, .shape = {1, 6, 6, 1, 1, 3, 1}};
    const auto spoiled_rows = [&](auto& inputs, auto& x) {
      x.row(2, 0)[0] = std::numeric_limits<double>::quiet_NaN();
      const Output out = definition(c, inputs.forward());
      std::vector<std::int64_t> spoiled;
      for (std::int64_t i = 0; i < 6; ++i)
        if (std::isnan(out.o.data()[i])) spoiled.push_back(i);
      return spoiled;
    };
    const std::vector<std::int64_t> seeing = mask == Mask::causal
                                                 ? std::vector<std::int64_t>{2, 3, 4, 5}
                                                 : std::vector<std::int64_t>{0, 1, 2, 3, 4, 5};
    Inputs<double> q(c), k(c), v(c);
    CHECK(spoiled_rows(q, q.q()) == std::vector<std::int64_t>{2});
    CHECK(spoiled_rows(k, k.k()) == seeing);
    CHECK(spoiled_rows(v, v.v()) == seeing);
  }
}

TEST_CASE("The reference takes empty problems") {
  const std::vector<std::function<void(support::Extents&)>> empty = {
      [](auto& s) { s.batch = 0; }, [](auto& s) { s.seq_q = s.seq_k = 0; },
      [](auto& s) { s.heads_q = s.heads_kv = 0; }};
  for (const auto& make_empty : empty) {
    Case c{.shape = {2, 3, 3, 2, 1, 4, 5}, .initial_state = Presence::present};
    make_empty(c.shape);
    const Inputs<double> inputs(c);
    const Output out = definition(c, inputs.forward());
    CHECK(out.o.empty());
    CHECK(out.h == Inputs<double>(c).initial_state());
    CHECK(support::gradient(c.mask, c.scale, inputs.backward()).dq.empty());
  }
}
