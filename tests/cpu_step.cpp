// The CPU backend's recurrent step against the reference.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/cpu_runs.hpp"
#include "support/part.hpp"

using cottention::bfloat16, cottention::half, cottention::Mask, cottention::Scale;
using namespace support;

namespace {

template <cottention::Element T>
using A = cottention::Accumulate<T>;

/// States between guard zones.
template <cottention::Element T>
class Pool {
 public:
  Pool(const cottention::Shape& shape, std::int64_t slots, std::uint64_t seed)
      : size_(shape.heads_kv * shape.dim_qk * shape.dim_v), h_(slots * size_), count_(slots) {
    Random random(seed);
    for (std::int64_t i = 0; i < h_.count(); ++i) h_[i] = static_cast<A<T>>(random.normal());
    for (std::int64_t slot = 0; slot < slots; ++slot) count_[slot] = random.below(50);
  }

  cottention::State<A<T>> view() { return {h_.data(), count_.data()}; }
  cottention::ConstState<A<T>> of(std::int64_t slot) const {
    return {h_.data() + slot * size_, &count_[slot]};
  }
  std::int64_t slots() const { return count_.count(); }
  std::int64_t count(std::int64_t slot) const { return count_[slot]; }
  bool guards_untouched() const { return h_.guards_untouched() && count_.guards_untouched(); }

  std::vector<double> h(std::int64_t slot) const {
    return {h_.data() + slot * size_, h_.data() + (slot + 1) * size_};
  }
  bool operator==(const Pool& other) const {
    return values_of(h_) == values_of(other.h_) && values_of(count_) == values_of(other.count_);
  }

 private:
  std::int64_t size_;
  Buffer<A<T>> h_;
  Buffer<std::int64_t> count_;
};

constexpr std::uint64_t pool_seed = 7;

/// How the lanes of one step are set.
struct Lanes {
  std::vector<std::int32_t> slot{};      ///< empty: null
  std::vector<std::int32_t> accepted{};  ///< empty: null
  Presence output = Presence::present;

  std::int64_t slot_of(std::int64_t lane) const { return slot.empty() ? lane : slot.data()[lane]; }
};

/// One step of all tokens of `inputs`. Returns o; rows that were not written are NaN.
template <cottention::Element T>
std::vector<double> run_step(const Inputs<T>& inputs, Pool<T>& pool, const Lanes& lanes,
                             const Manner& manner = {}) {
  const cottention::Shape& s = inputs.shape();
  const auto forward = inputs.forward();
  TensorBuffer<T> o(manner.layout, s.batch, s.seq_q, s.heads_q, s.dim_v);
  cottention::StepArguments<T> args;
  args.shape = s;
  args.k = forward.k;
  args.v = forward.v;
  if (lanes.output == Presence::present) {
    args.q = forward.q;
    args.o = o.view();
  }
  args.scale_logit = forward.scale_logit;
  args.pool = pool.view();
  args.slots = pool.slots();
  if (!lanes.slot.empty()) args.slot = lanes.slot.data();
  if (!lanes.accepted.empty()) args.accepted = lanes.accepted.data();
  run(cpu_step<T>(inputs.description().scale), args, manner.execution);
  CHECK(pool.guards_untouched());
  CHECK(o.surroundings_untouched());
  return o.values();
}

/// What the reference makes of the first `tokens` tokens of one lane.
template <cottention::Element T>
Output expected_lane(const Inputs<T>& inputs, std::int64_t lane, std::int64_t tokens, const Pool<T>& before,
                     std::int64_t slot) {
  auto args = part(inputs.forward(), lane, {0, tokens}, {0, tokens});
  args.initial_state = before.of(slot);
  return definition(Mask::causal, inputs.description().scale, args);
}

/// Checks a step: outputs of all tokens, states of the accepted ones, everything else as it was.
template <cottention::Element T>
void check_step(const Case& c, const Lanes& lanes, std::int64_t slots, const Manner& manner = {}) {
  Inputs<T> inputs(c);
  const cottention::Shape& s = inputs.shape();
  INFO(describe<T>(c) << ", slots " << slots);
  for (std::int64_t lane = 0; lane < s.batch; ++lane)  // nothing of an idle lane may be read
    for (std::int64_t t = 0; lanes.slot_of(lane) < 0 && t < s.seq_k; ++t)
      for (TensorBuffer<T>* x : {&inputs.q(), &inputs.k(), &inputs.v()})
        std::fill_n(x->row(lane * s.seq_k + t, 0), x->dim(),
                    from_double<T>(std::numeric_limits<double>::quiet_NaN()));
  const Pool<T> before(s, slots, pool_seed);
  Pool<T> pool(s, slots, pool_seed);
  const std::vector<double> o = run_step(inputs, pool, lanes, manner);

  std::vector<double> got_o, expected_o, got_h, expected_h;
  std::vector<char> used(static_cast<std::size_t>(slots));
  const std::int64_t lane_width = s.seq_q * s.heads_q * s.dim_v;
  for (std::int64_t lane = 0; lane < s.batch; ++lane) {
    const std::int64_t slot = lanes.slot_of(lane);
    const std::vector<double> rows = rows_of(o, {lane, lane + 1}, lane_width);
    if (slot < 0 || lanes.output == Presence::absent)
      CHECK(std::all_of(rows.begin(), rows.end(), [](double x) { return x != x; }));  // as it was born
    if (slot < 0) continue;
    used.data()[slot] = 1;
    const std::int64_t accepted = lanes.accepted.empty() ? s.seq_q : lanes.accepted.data()[lane];
    const Output all = expected_lane(inputs, lane, s.seq_q, before, slot);
    const Output kept = expected_lane(inputs, lane, accepted, before, slot);
    append(got_o, rows);
    append(expected_o, all.o);
    append(got_h, pool.h(slot));
    append(expected_h, kept.h);
    CHECK(pool.count(slot) == kept.count.front());
    if (accepted == 0) CHECK(pool.h(slot) == before.h(slot));
  }
  if (lanes.output == Presence::present) CHECK(relative_error(got_o, expected_o) <= bounds<T>.forward);
  CHECK(relative_error(got_h, expected_h) <= bounds<T>.state);
  for (std::int64_t slot = 0; slot < slots; ++slot)
    if (used.data()[slot] == 0) {
      CHECK(pool.h(slot) == before.h(slot));
      CHECK(pool.count(slot) == before.count(slot));
    }
}

constexpr Scale scales[] = {Scale::none, Scale::by_key, Scale::by_query};

}  // namespace

TEMPLATE_TEST_CASE("Step: any number of tokens and any head dims are right", "", double, float, half,
                   bfloat16) {
  constexpr std::int64_t dims[][2] = {{16, 16}, {64, 64},  {24, 40}, {1, 3},
                                      {3, 1},   {129, 80}, {5, 33},  {128, 256}};
  constexpr std::int64_t heads[][2] = {{2, 2}, {4, 1}};
  for (const Scale scale : scales)
    for (const auto& [dim_qk, dim_v] : dims)
      for (const auto& [heads_q, heads_kv] : heads)
        for (const std::int64_t tokens : {1, 2, 5})
          check_step<TestType>(
              {.scale = scale, .shape = {3, tokens, tokens, heads_q, heads_kv, dim_qk, dim_v}}, {}, 3);
  for (const std::int64_t tokens : {15, 16, 17, 40})
    check_step<TestType>({.shape = {2, tokens, tokens, 2, 1, 24, 40}}, {}, 2);
}

TEMPLATE_TEST_CASE("Step: lanes use their slots, idle lanes none", "", double, float, half, bfloat16) {
  for (const std::int64_t tokens : {1, 3})
    for (const std::int64_t dim : {16, 40}) {
      const Case c{.shape = {5, tokens, tokens, 2, 2, dim, dim}};
      check_step<TestType>(c, {.slot = {6, -1, 0, -5, 3}}, 8);
      check_step<TestType>(c, {.slot = {-1, -1, -1, -1, -1}}, 8);
      check_step<TestType>(c, {.slot = {4, 3, 2, 1, 0}}, 5);
      check_step<TestType>(c, {}, 8);
    }
}

TEMPLATE_TEST_CASE("Step: states absorb accepted tokens only, outputs are of all", "", double, float, half,
                   bfloat16) {
  for (const Scale scale : scales) {
    const Case c{.scale = scale, .shape = {5, 4, 4, 4, 2, 24, 40}};
    check_step<TestType>(c, {.accepted = {0, 1, 2, 3, 4}}, 5);
    check_step<TestType>(c, {.slot = {3, -1, 6, 0, 1}, .accepted = {4, 9, 0, 2, 1}}, 7);
    check_step<TestType>(c, {.accepted = {0, 0, 0, 0, 0}}, 5);
    check_step<TestType>(c, {.accepted = {3, 1, 4, 0, 2}, .output = Presence::absent}, 5);
    const Case one{.scale = scale, .shape = {3, 1, 1, 2, 2, 32, 32}};
    check_step<TestType>(one, {.accepted = {1, 0, 1}}, 3);
    check_step<TestType>(one, {.output = Presence::absent}, 3);
  }
}

TEMPLATE_TEST_CASE("Step: strided tensors are right and gaps stay untouched", "", double, float, half,
                   bfloat16) {
  for (const Layout inputs : {Layout::bhsd, Layout::gaps})
    for (const Layout outputs : {Layout::bhsd, Layout::gaps})
      check_step<TestType>({.shape = {3, 2, 2, 4, 2, 24, 17}, .layout = inputs}, {}, 3, {.layout = outputs});
}

TEMPLATE_TEST_CASE("Step: tiny, huge, zero and correlated rows are right", "", double, float, half,
                   bfloat16) {
  for (const Rows rows : {Rows::correlated, Rows::small, Rows::tiny, Rows::huge, Rows::mixed})
    for (const std::int64_t tokens : {1, 5})
      check_step<TestType>({.shape = {4, tokens, tokens, 2, 1, 40, 24}, .rows = rows}, {}, 4);
}

TEMPLATE_TEST_CASE("Step: a prefix and steps make one pass", "", double, float, half, bfloat16) {
  for (const Scale scale : scales) {
    const Case c{.scale = scale, .shape = {2, 90, 90, 4, 2, 24, 32}};
    const Inputs<TestType> inputs(c);
    INFO(describe<TestType>(c));
    const auto whole = inputs.forward();
    const Output expected = definition(Mask::causal, scale, whole);
    Pool<TestType> pool(c.shape, 2, pool_seed);
    std::vector<std::vector<double>> o(2);
    for (std::int64_t b = 0; b < 2; ++b) {
      const std::int64_t prefix = 50 + b;
      auto args = part(whole, b, {0, prefix}, {0, prefix});
      const Output head = run_forward(cpu_forward<TestType>(Mask::causal, scale), args);
      std::copy(head.h.begin(), head.h.end(), pool.view().h + b * std::ssize(head.h));
      pool.view().count[b] = head.count.front();
      o[static_cast<std::size_t>(b)] = head.o;

      // The rest in steps of 1, 3, 1, 3, ... tokens.
      for (std::int64_t t = prefix, tokens = 1; t < 90; t += tokens, tokens = std::min(4 - tokens, 90 - t)) {
        const auto rest = part(whole, b, {t, t + tokens}, {t, t + tokens});
        TensorBuffer<TestType> out(Layout::bshd, 1, tokens, 4, 32);
        const std::int32_t slot[] = {static_cast<std::int32_t>(b)};
        cottention::StepArguments<TestType> step{.shape = rest.shape,
                                                 .q = rest.q,
                                                 .k = rest.k,
                                                 .v = rest.v,
                                                 .o = out.view(),
                                                 .scale_logit = rest.scale_logit,
                                                 .pool = pool.view(),
                                                 .slots = 2,
                                                 .slot = slot};
        run(cpu_step<TestType>(scale), step, {});
        append(o[static_cast<std::size_t>(b)], out.values());
      }
    }
    append(o[0], o[1]);
    CHECK(relative_error(o[0], expected.o) <= bounds<TestType>.forward);
    std::vector<double> h = pool.h(0);
    append(h, pool.h(1));
    CHECK(relative_error(h, expected.h) <= bounds<TestType>.state);
    CHECK(std::vector<std::int64_t>{pool.count(0), pool.count(1)} == expected.count);
  }
}

TEST_CASE("Step: a draft leaves the states, accepting it gives what plain steps give") {
  const Case c{.shape = {3, 4, 4, 2, 1, 24, 40}};
  const Inputs<float> inputs(c);
  const Pool<float> before(c.shape, 3, pool_seed);
  Pool<float> drafted(c.shape, 3, pool_seed), plain(c.shape, 3, pool_seed);
  const std::vector<double> draft = run_step(inputs, drafted, {.accepted = {0, 0, 0}});
  CHECK(drafted == before);
  run_step(inputs, drafted, {.accepted = {4, 4, 4}, .output = Presence::absent});
  CHECK(run_step(inputs, plain, {}) == draft);
  CHECK(drafted == plain);
}

TEMPLATE_TEST_CASE("Step: NaN reaches only the tokens and states that see it", "", float, bfloat16) {
  const Case c{.shape = {3, 4, 4, 2, 1, 24, 40}};
  for (const int operand : {0, 1, 2})
    for (const std::int64_t accepted : {2, 3}) {
      INFO("operand " << operand << ", accepted " << accepted);
      Inputs<TestType> inputs(c);
      TensorBuffer<TestType>& x = operand == 0 ? inputs.q() : operand == 1 ? inputs.k() : inputs.v();
      x.row(1 * 4 + 2, 0)[3] = from_double<TestType>(std::numeric_limits<double>::quiet_NaN());
      const Pool<TestType> before(c.shape, 3, pool_seed);
      Pool<TestType> pool(c.shape, 3, pool_seed);
      const auto kept = static_cast<std::int32_t>(accepted);
      const std::vector<double> o = run_step(inputs, pool, {.accepted = {kept, kept, kept}});
      std::vector<double> expected_o, h, expected_h;
      for (std::int64_t lane = 0; lane < 3; ++lane) {
        append(expected_o, expected_lane(inputs, lane, 4, before, lane).o);
        append(h, pool.h(lane));
        append(expected_h, expected_lane(inputs, lane, accepted, before, lane).h);
      }
      check_spread(o, expected_o, 40, bounds<TestType>.forward);
      check_spread(h, expected_h, 24 * 40, bounds<TestType>.state);
    }
}

TEMPLATE_TEST_CASE("Step: a lane's bits depend neither on threads nor on other lanes", "", double, float,
                   bfloat16) {
  for (const std::int64_t tokens : {1, 3}) {  // with states large enough to be worth several threads
    const Case c{.shape = {7, tokens, tokens, 4, 2, 128, 136}};
    const Inputs<TestType> inputs(c);
    INFO(describe<TestType>(c));
    Pool<TestType> pool(c.shape, 7, pool_seed);
    const std::vector<double> o = run_step(inputs, pool, {}, {.execution = {.threads = 1}});
    for (const int threads : {1, 2, 3, 5})
      for (const Order order : {Order::sequential, Order::reversed, Order::concurrent}) {
        Pool<TestType> other(c.shape, 7, pool_seed);
        CHECK(run_step(inputs, other, {}, {.execution = executor(threads, order)}) == o);
        CHECK(other == pool);
      }
    for (std::int32_t lane = 0; lane < 7; ++lane) {
      Lanes alone{.slot = std::vector<std::int32_t>(7, -1)};
      alone.slot[static_cast<std::size_t>(lane)] = lane;
      Pool<TestType> other(c.shape, 7, pool_seed);
      const std::int64_t width = tokens * 4 * 136;
      CHECK(rows_of(run_step(inputs, other, alone), {lane, lane + 1}, width) ==
            rows_of(o, {lane, lane + 1}, width));
      CHECK(other.h(lane) == pool.h(lane));
    }
  }
}

TEST_CASE("Step: without lanes or tokens nothing changes, and without heads there is nothing to do") {
  check_step<float>({.shape = {0, 1, 1, 2, 1, 4, 5}}, {}, 3);
  check_step<float>({.shape = {2, 0, 0, 2, 1, 4, 5}}, {}, 3);
  const Inputs<float> inputs({.shape = {2, 1, 1, 0, 0, 4, 5}});
  Pool<float> pool(inputs.shape(), 2, pool_seed);
  CHECK(run_step(inputs, pool, {}).empty());
}

TEST_CASE("Step: head dims known at compile time are right") {
  using P = cottention::Problem<float, cottention::HeadDim{64, 64}, Mask::causal, Scale::by_key>;
  const Inputs<float> inputs({.shape = {2, 1, 1, 1, 1, 64, 64}});
  const auto forward = inputs.forward();
  const Pool<float> before(inputs.shape(), 2, pool_seed);
  Pool<float> pool(inputs.shape(), 2, pool_seed);
  TensorBuffer<float> o(Layout::bshd, 2, 1, 1, 64);
  cottention::StepArguments<float> args{.shape = inputs.shape(),
                                        .q = forward.q,
                                        .k = forward.k,
                                        .v = forward.v,
                                        .o = o.view(),
                                        .scale_logit = forward.scale_logit,
                                        .pool = pool.view(),
                                        .slots = 2};
  run(step_of<P>(), args, {});
  std::vector<double> expected = expected_lane(inputs, 0, 1, before, 0).o;
  append(expected, expected_lane(inputs, 1, 1, before, 1).o);
  CHECK(relative_error(o.values(), expected) <= bounds<float>.forward);
}
