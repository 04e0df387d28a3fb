// The CPU backend's recurrent step against the reference.
#include <cstdint>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/cpu_runs.hpp"
#include "support/step_cases.hpp"

using cottention::bfloat16, cottention::half, cottention::Mask, cottention::Scale;
using namespace support;

namespace {

template <cottention::Element T>
Stepper<T> stepper(Scale scale, const cottention::cpu::Execution& execution = {},
                   Exceptions exceptions = Exceptions::none) {
  return
      [=](const cottention::StepArguments<T>& args) { run(cpu_step<T>(scale), args, execution, exceptions); };
}

template <cottention::Element T>
void check_step(const Case& c, const Lanes& lanes, std::int64_t slots, Layout layout = Layout::bshd) {
  support::check_step<T>(stepper<T>(c.scale), c, lanes, slots, layout);
}

constexpr Scale scales[] = {Scale::none, Scale::by_key, Scale::by_query};

}  // namespace

TEMPLATE_TEST_CASE("Step: any number of tokens and any head dims are right", "", COTTENTION_TEST_ELEMENTS) {
  constexpr std::int64_t dims[][2] = {{16, 16}, {64, 64},  {24, 40}, {1, 3},
                                      {3, 1},   {129, 80}, {5, 33},  {128, 256}};
  constexpr std::int64_t heads[][2] = {{2, 2}, {4, 1}};
  for (const Scale scale : scales)
    for (const auto& [dim_qk, dim_v] : dims)
      for (const auto& [heads_q, heads_kv] : heads)
        for (const std::int64_t tokens : {1, 2, 5})
          check_step<TestType>(
              {.scale = scale, .shape = {3, tokens, tokens, heads_q, heads_kv, dim_qk, dim_v}}, {}, 3);
  for (const std::int64_t tokens : {1, 2})
    for (const std::int64_t dim_qk : {16'384, 65'536})
      check_step<TestType>({.shape = {1, tokens, tokens, 1, 1, dim_qk, 20}}, {}, 1);
  for (const std::int64_t tokens : {15, 16, 17, 40})
    check_step<TestType>({.shape = {2, tokens, tokens, 2, 1, 24, 40}}, {}, 2);
}

TEMPLATE_TEST_CASE("Step: lanes use their slots, idle lanes none", "", COTTENTION_TEST_ELEMENTS) {
  for (const std::int64_t tokens : {1, 3})
    for (const std::int64_t dim : {16, 40}) {
      const Case c{.shape = {5, tokens, tokens, 2, 2, dim, dim}};
      check_step<TestType>(c, {.slot = {6, -1, 0, -5, 3}}, 8);
      check_step<TestType>(c, {.slot = {-1, -1, -1, -1, -1}}, 8);
      check_step<TestType>(c, {.slot = {4, 3, 2, 1, 0}}, 5);
      check_step<TestType>(c, {}, 8);
    }
}

TEMPLATE_TEST_CASE("Step: states absorb accepted tokens only, outputs are of all", "",
                   COTTENTION_TEST_ELEMENTS) {
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

TEMPLATE_TEST_CASE("Step: strided tensors are right and gaps stay untouched", "", COTTENTION_TEST_ELEMENTS) {
  for (const Layout inputs : {Layout::bhsd, Layout::gaps})
    for (const Layout outputs : {Layout::bhsd, Layout::gaps})
      check_step<TestType>({.shape = {3, 2, 2, 4, 2, 24, 17}, .layout = inputs}, {}, 3, outputs);
}

TEMPLATE_TEST_CASE("Step: tiny, huge, zero and correlated rows are right", "", COTTENTION_TEST_ELEMENTS) {
  for (const Rows rows : {Rows::correlated, Rows::small, Rows::tiny, Rows::huge, Rows::mixed})
    for (const std::int64_t tokens : {1, 5})
      check_step<TestType>({.shape = {4, tokens, tokens, 2, 1, 40, 24}, .rows = rows}, {}, 4);
}

TEMPLATE_TEST_CASE("Step: a prefix and steps make one pass", "", COTTENTION_TEST_ELEMENTS) {
  for (const Scale scale : scales)
    check_prefix_and_steps<TestType>(
        stepper<TestType>(scale), {.scale = scale, .shape = {2, 90, 90, 4, 2, 24, 32}}, 50,
        [&](const auto& args) { return run_forward(cpu_forward<TestType>(Mask::causal, scale), args); });
}

TEST_CASE("Step: a draft leaves the states, accepting it gives what plain steps give") {
  check_draft<float>(stepper<float>(Scale::by_key), {.shape = {3, 4, 4, 2, 1, 24, 40}});
}

TEMPLATE_TEST_CASE("Step: NaN reaches only the tokens and states that see it", "", COTTENTION_TEST_ELEMENTS) {
  check_containment<TestType>(stepper<TestType>(Scale::by_key, {}, Exceptions::allowed),
                              {.shape = {3, 4, 4, 2, 1, 24, 40}}, std::numeric_limits<double>::quiet_NaN());
}

TEMPLATE_TEST_CASE("Step: a lane's bits depend neither on threads nor on other lanes", "",
                   COTTENTION_TEST_ELEMENTS) {
  for (const std::int64_t tokens : {1, 3}) {  // with states large enough to be worth several threads
    const Case c{.shape = {7, tokens, tokens, 4, 2, 128, 136}};
    const Inputs<TestType> inputs(c);
    INFO(describe<TestType>(c));
    Pool<TestType> pool(c.shape, 7);
    const std::vector<double> o = run_step(stepper<TestType>(c.scale, {.threads = 1}), inputs, pool, {});
    for (const int threads : {1, 2, 3, 5})
      for (const Order order : {Order::sequential, Order::reversed, Order::concurrent}) {
        Pool<TestType> other(c.shape, 7);
        const auto step = stepper<TestType>(c.scale, executor(threads, order));
        CHECK(same_bits(run_step(step, inputs, other, {}), o));
        CHECK(other == pool);
      }
    check_lanes_alone(stepper<TestType>(c.scale), inputs, o, pool);
  }
}

TEST_CASE("Step: without lanes or tokens nothing changes, and without heads there is nothing to do") {
  check_step<float>({.shape = {0, 1, 1, 2, 1, 4, 5}}, {}, 3);
  check_step<float>({.shape = {2, 0, 0, 2, 1, 4, 5}}, {}, 3);
  const Inputs<float> inputs({.shape = {2, 1, 1, 0, 0, 4, 5}});
  Pool<float> pool(inputs.shape(), 2);
  CHECK(run_step(stepper<float>(Scale::by_key), inputs, pool, {}).empty());
}

TEST_CASE("Step: head dims known at compile time are right") {
  using P = cottention::Problem<float, cottention::HeadDim{64, 64}, Mask::causal, Scale::by_key>;
  const Inputs<float> inputs({.shape = {2, 1, 1, 1, 1, 64, 64}});
  const auto forward = inputs.forward();
  const Pool<float> before(inputs.shape(), 2);
  Pool<float> pool(inputs.shape(), 2);
  TensorBuffer<float> o(Layout::bshd, 2, 1, 1, 64);
  cottention::StepArguments<float> args{.shape = inputs.shape(),
                                        .q = forward.q,
                                        .k = forward.k,
                                        .v = forward.v,
                                        .o = o.view(),
                                        .scale_logit = forward.scale_logit,
                                        .pool = pool.view(),
                                        .pool_slots = 2};
  run(step_of<P>(), args, {});
  std::vector<double> expected = expected_lane(inputs, 0, 1, before, 0).o;
  append(expected, expected_lane(inputs, 1, 1, before, 1).o);
  CHECK(relative_error(o.values(), expected) <= bounds<float>.forward);
}
