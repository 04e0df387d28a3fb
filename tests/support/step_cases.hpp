// Steps on pools of states, made by any backend and checked against the reference.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/compare.hpp"
#include "support/error.hpp"
#include "support/oracle.hpp"
#include "support/problem_generator.hpp"

namespace support {

/// States between guard zones.
template <cottention::Element T>
class Pool {
  using A = cottention::Accumulate<T>;

 public:
  Pool(const cottention::Shape& shape, std::int64_t slots, std::uint64_t seed = 7)
      : size_(shape.heads_kv * shape.dim_qk * shape.dim_v), h_(slots * size_), count_(slots) {
    Random random(seed);
    for (std::int64_t i = 0; i < h_.count(); ++i) h_[i] = static_cast<A>(random.normal());
    for (std::int64_t slot = 0; slot < slots; ++slot) count_[slot] = random.below(50);
  }

  cottention::State<A> view() { return {h_.data(), count_.data()}; }
  cottention::ConstState<A> of(std::int64_t slot) const { return {h_.data() + slot * size_, &count_[slot]}; }
  std::int64_t slots() const { return count_.count(); }
  std::int64_t count(std::int64_t slot) const { return count_[slot]; }
  bool guards_untouched() const { return h_.guards_untouched() && count_.guards_untouched(); }

  /// Makes `slot` the state that a result of the reference has for sequence 0.
  void set(std::int64_t slot, const Output& state) {
    std::transform(state.h.begin(), state.h.begin() + size_, h_.data() + slot * size_,
                   [](double x) { return static_cast<A>(x); });
    count_[slot] = state.count.front();
  }

  /// Takes over the states of a pool of the same size.
  void assign(const Pool& other) {
    std::copy_n(other.h_.data(), h_.count(), h_.data());
    std::copy_n(other.count_.data(), slots(), count_.data());
  }

  std::vector<double> h(std::int64_t slot) const {
    return {h_.data() + slot * size_, h_.data() + (slot + 1) * size_};
  }
  bool operator==(const Pool& other) const {
    for (std::int64_t slot = 0; slot < slots(); ++slot)
      if (count(slot) != other.count(slot) || !same_bits(h(slot), other.h(slot))) return false;
    return slots() == other.slots();
  }

 private:
  std::int64_t size_;
  Buffer<A> h_;
  Buffer<std::int64_t> count_;
};

/// How the lanes of one step are set.
struct Lanes {
  std::vector<std::int32_t> slot{};      ///< empty: null
  std::vector<std::int32_t> accepted{};  ///< empty: null
  Presence output = Presence::present;

  std::int64_t slot_of(std::int64_t lane) const { return slot.empty() ? lane : slot.data()[lane]; }
};

/// Makes one step, whose arguments are in host memory and valid.
template <cottention::Element T>
using Stepper = std::function<void(const cottention::StepArguments<T>&)>;

/// One step of all tokens of `inputs`. Returns o; rows that were not written are NaN.
template <cottention::Element T>
std::vector<double> run_step(const Stepper<T>& step, const Inputs<T>& inputs, Pool<T>& pool,
                             const Lanes& lanes, Layout layout = Layout::bshd) {
  const cottention::Shape& s = inputs.shape();
  const auto forward = inputs.forward();
  TensorBuffer<T> o(layout, s.batch, s.seq_q, s.heads_q, s.dim_v);
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
  args.pool_slots = pool.slots();
  if (!lanes.slot.empty()) args.slot = lanes.slot.data();
  if (!lanes.accepted.empty()) args.accepted = lanes.accepted.data();
  step(args);
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
  return definition(cottention::Mask::causal, inputs.description().scale, args);
}

/// Fills the tokens of idle lanes with NaN: nothing of them may be read.
template <cottention::Element T>
void spoil_idle_lanes(Inputs<T>& inputs, const Lanes& lanes) {
  const cottention::Shape& s = inputs.shape();
  for (std::int64_t lane = 0; lane < s.batch; ++lane)
    for (std::int64_t t = 0; lanes.slot_of(lane) < 0 && t < s.seq_k; ++t)
      for (TensorBuffer<T>* x : {&inputs.q(), &inputs.k(), &inputs.v()})
        std::fill_n(x->row(lane * s.seq_k + t, 0), x->dim(),
                    from_double<T>(std::numeric_limits<double>::quiet_NaN()));
}

/// Checks a step: outputs of all tokens, states of the accepted ones, everything else as it was.
template <cottention::Element T>
void check_step(const Stepper<T>& step, const Case& c, const Lanes& lanes, std::int64_t slots,
                Layout layout = Layout::bshd) {
  Inputs<T> inputs(c);
  const cottention::Shape& s = inputs.shape();
  INFO(describe<T>(c) << ", slots " << slots);
  spoil_idle_lanes(inputs, lanes);
  const Pool<T> before(s, slots);
  Pool<T> pool(s, slots);
  const std::vector<double> o = run_step(step, inputs, pool, lanes, layout);

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

/// Checks that steps continue what `prefix` has begun: a prefix of each of two sequences, then the rest in
/// steps of 1, 3, 1, 3, ... tokens, against all of it in one pass of the reference.
template <cottention::Element T>
void check_prefix_and_steps(const Stepper<T>& step, const Case& c, std::int64_t first_prefix,
                            const std::function<Output(const cottention::ForwardArguments<T>&)>& prefix) {
  const Inputs<T> inputs(c);
  INFO(describe<T>(c));
  const cottention::Shape& s = c.shape;
  const auto whole = inputs.forward();
  const Output expected = definition(cottention::Mask::causal, c.scale, whole);
  Pool<T> pool(s, s.batch);
  std::vector<double> o, h;
  std::vector<std::int64_t> count;
  for (std::int64_t b = 0; b < s.batch; ++b) {
    const Output begun = prefix(part(whole, b, {0, first_prefix + b}, {0, first_prefix + b}));
    pool.set(b, begun);
    append(o, begun.o);
    for (std::int64_t t = first_prefix + b, tokens = 1; t < s.seq_q;
         t += tokens, tokens = std::min(4 - tokens, s.seq_q - t)) {
      const auto rest = part(whole, b, {t, t + tokens}, {t, t + tokens});
      TensorBuffer<T> out(Layout::bshd, 1, tokens, s.heads_q, s.dim_v);
      const std::int32_t slot[] = {static_cast<std::int32_t>(b)};
      cottention::StepArguments<T> args;
      args.shape = rest.shape;
      args.q = rest.q;
      args.k = rest.k;
      args.v = rest.v;
      args.o = out.view();
      args.scale_logit = rest.scale_logit;
      args.pool = pool.view();
      args.pool_slots = s.batch;
      args.slot = slot;
      step(args);
      append(o, out.values());
    }
    append(h, pool.h(b));
    count.push_back(pool.count(b));
  }
  CHECK(relative_error(o, expected.o) <= bounds<T>.forward);
  CHECK(relative_error(h, expected.h) <= bounds<T>.state);
  CHECK(count == expected.count);
}

/// Checks that a draft leaves the states, and that accepting it gives what plain steps give.
template <cottention::Element T>
void check_draft(const Stepper<T>& step, const Case& c) {
  const Inputs<T> inputs(c);
  INFO(describe<T>(c));
  const auto lanes = static_cast<std::size_t>(c.shape.batch);
  const std::vector<std::int32_t> none(lanes), all(lanes, static_cast<std::int32_t>(c.shape.seq_q));
  const Pool<T> before(c.shape, c.shape.batch);
  Pool<T> drafted(c.shape, c.shape.batch), plain(c.shape, c.shape.batch);
  const std::vector<double> draft = run_step(step, inputs, drafted, {.accepted = none});
  CHECK(drafted == before);
  run_step(step, inputs, drafted, {.accepted = all, .output = Presence::absent});
  CHECK(same_bits(run_step(step, inputs, plain, {}), draft));
  CHECK(drafted == plain);
}

/// Checks that `value` in token 2 of lane 1 reaches only the tokens and states that see it.
template <cottention::Element T>
void check_containment(const Stepper<T>& step, const Case& c, double value) {
  const cottention::Shape& s = c.shape;
  for (const int operand : {0, 1, 2})
    for (const std::int32_t accepted : {2, 3}) {
      INFO(describe<T>(c) << ", operand " << operand << ", accepted " << accepted);
      Inputs<T> inputs(c);
      TensorBuffer<T>& x = operand == 0 ? inputs.q() : operand == 1 ? inputs.k() : inputs.v();
      x.row(1 * s.seq_q + 2, 0)[3] = from_double<T>(value);
      const Pool<T> before(s, s.batch);
      Pool<T> pool(s, s.batch);
      const std::vector<std::int32_t> kept(static_cast<std::size_t>(s.batch), accepted);
      const std::vector<double> o = run_step(step, inputs, pool, {.accepted = kept});
      std::vector<double> expected_o, h, expected_h;
      for (std::int64_t lane = 0; lane < s.batch; ++lane) {
        append(expected_o, expected_lane(inputs, lane, s.seq_q, before, lane).o);
        append(h, pool.h(lane));
        append(expected_h, expected_lane(inputs, lane, accepted, before, lane).h);
      }
      check_spread(o, expected_o, s.dim_v, bounds<T>.forward);
      check_spread(h, expected_h, s.dim_qk * s.dim_v, bounds<T>.state);
    }
}

/// Checks that each lane alone, the others idle, gives the bits that it gave among all: `o` and `pool`.
template <cottention::Element T>
void check_lanes_alone(const Stepper<T>& step, const Inputs<T>& inputs, const std::vector<double>& o,
                       const Pool<T>& pool) {
  const cottention::Shape& s = inputs.shape();
  const std::int64_t width = s.seq_q * s.heads_q * s.dim_v;
  for (std::int64_t lane = 0; lane < s.batch; ++lane) {
    Lanes alone{.slot = std::vector<std::int32_t>(static_cast<std::size_t>(s.batch), -1)};
    alone.slot.data()[lane] = static_cast<std::int32_t>(lane);
    Pool<T> other(s, s.batch);
    CHECK(same_bits(rows_of(run_step(step, inputs, other, alone), {lane, lane + 1}, width),
                    rows_of(o, {lane, lane + 1}, width)));
    CHECK(same_bits(other.h(lane), pool.h(lane)));
  }
}

}  // namespace support
