// The recurrent step on a device, or in the emulator, against the reference.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <cottention/step.cuh>

#include "support/catch.hpp"
#include "support/cuda_step.hpp"
#include "support/step_cases.hpp"

#if __has_include(<emulation.hpp>)
#include <emulation.hpp>
#endif

using cottention::bfloat16, cottention::half, cottention::Mask, cottention::Scale;
using namespace support;

namespace {

constexpr Scale scales[] = {Scale::none, Scale::by_key, Scale::by_query};

template <cottention::Element T>
void check_step(const Case& c, const Lanes& lanes, std::int64_t slots, Layout layout = Layout::bshd) {
  const CudaStep<T> step = cuda_step<T>(c.shape.dim_qk, c.shape.dim_v, c.scale);
  support::check_step<T>(device_stepper(step), c, lanes, slots, layout);
}

/// Calls `body()` in every schedule of the emulator; once on a device.
template <class Body>
void in_every_schedule(Body body) {
#if __has_include(<emulation.hpp>)
  cottention::emulation::for_each_schedule([&](const cottention::emulation::Options& options) {
    INFO(cottention::emulation::describe(options));
    body();
  });
#else
  body();
#endif
}

}  // namespace

TEMPLATE_TEST_CASE("Step on a device: any number of tokens and any head dims are right", "", double, float,
                   half, bfloat16) {
  constexpr std::int64_t heads[][2] = {{2, 2}, {4, 1}};
  for (const auto& [dim_qk, dim_v] : cuda_step_dims)
    for (const auto& [heads_q, heads_kv] : heads)
      for (const std::int64_t tokens : {1, 2, 5}) {
        if (dim_qk * dim_v > 64 * 64 && tokens == 2) continue;
        check_step<TestType>({.shape = {2, tokens, tokens, heads_q, heads_kv, dim_qk, dim_v}}, {}, 2);
      }
  for (const Scale scale : scales)
    for (const std::int64_t tokens : {1, 4, 15, 16, 17, 40})
      check_step<TestType>({.scale = scale, .shape = {2, tokens, tokens, 2, 1, 24, 40}}, {}, 2);
}

TEMPLATE_TEST_CASE("Step on a device: every tiling gives the same bits, those that the reference allows", "",
                   double, float, half, bfloat16) {
  for (const auto& [dim_qk, dim_v] : cuda_step_dims) {
    const Case c{.shape = {2, 3, 3, 6, 3, dim_qk, dim_v}};
    INFO(describe<TestType>(c));
    const Inputs<TestType> inputs(c);
    const CudaStep<TestType> step = cuda_step<TestType>(dim_qk, dim_v, c.scale);
    const Lanes lanes{.accepted = {2, 3}};
    Pool<TestType> pool(c.shape, 2);
    const std::vector<double> o = run_step(device_stepper(step), inputs, pool, lanes);
    for (const CudaStepCall<TestType> call : step.tilings) {
      support::check_step<TestType>(device_stepper<TestType>(call), c, lanes, 2);
      for (int run = 0; run < 2; ++run) {
        Pool<TestType> other(c.shape, 2);
        CHECK(same_bits(run_step(device_stepper<TestType>(call), inputs, other, lanes), o));
        CHECK(other == pool);
      }
    }
  }
}

TEST_CASE("Step on a device: there are blocks of several sizes where heads are few") {
  CHECK(cuda_step<half>(64, 64, Scale::by_key).tilings.size() == 3);
  CHECK(cuda_step<half>(128, 128, Scale::by_key).tilings.size() == 4);
  CHECK(cuda_step<double>(8, 8, Scale::by_key).tilings.size() == 1);
}

TEMPLATE_TEST_CASE("Step on a device: every schedule is right", "", double, float, half, bfloat16) {
  in_every_schedule([] {
    check_step<TestType>({.shape = {3, 3, 3, 4, 2, 24, 40}}, {.slot = {3, -1, 0}, .accepted = {2, 1, 3}}, 4);
    for (const Scale scale : scales)
      for (const CudaStepCall<TestType> call : cuda_step<TestType>(64, 64, scale).tilings)
        support::check_step<TestType>(device_stepper<TestType>(call),
                                      {.scale = scale, .shape = {1, 14, 14, 3, 1, 64, 64}}, {}, 1);
    check_step<TestType>({.shape = {1, 1, 1, 9, 1, 72, 40}}, {}, 1);
    for (const CudaStepCall<TestType> call : cuda_step<TestType>(256, 24, Scale::by_key).tilings)
      support::check_step<TestType>(device_stepper<TestType>(call), {.shape = {1, 2, 2, 2, 1, 256, 24}}, {},
                                    1);
  });
}

TEMPLATE_TEST_CASE("Step on a device: lanes use their slots, idle lanes none", "", double, float, half,
                   bfloat16) {
  for (const std::int64_t tokens : {1, 3}) {
    const Case c{.shape = {5, tokens, tokens, 2, 2, 24, 40}};
    check_step<TestType>(c, {.slot = {6, -1, 0, -5, 3}}, 8);
    check_step<TestType>(c, {.slot = {-1, -1, -1, -1, -1}}, 8);
    check_step<TestType>(c, {.slot = {4, 3, 2, 1, 0}}, 5);
    check_step<TestType>(c, {}, 8);
  }
}

TEMPLATE_TEST_CASE("Step on a device: states absorb accepted tokens only, outputs are of all", "", double,
                   float, half, bfloat16) {
  for (const Scale scale : scales) {
    const Case c{.scale = scale, .shape = {5, 4, 4, 4, 2, 24, 40}};
    check_step<TestType>(c, {.accepted = {0, 1, 2, 3, 4}}, 5);
    check_step<TestType>(c, {.slot = {3, -1, 6, 0, 1}, .accepted = {4, 9, 0, 2, 1}}, 7);
    check_step<TestType>(c, {.accepted = {0, 0, 0, 0, 0}}, 5);
    check_step<TestType>(c, {.accepted = {3, 1, 4, 0, 2}, .output = Presence::absent}, 5);
    Case one = c;
    one.shape = {3, 1, 1, 2, 2, 24, 40};
    check_step<TestType>(one, {.accepted = {1, 0, 1}}, 3);
    check_step<TestType>(one, {.output = Presence::absent}, 3);
  }
}

TEMPLATE_TEST_CASE("Step on a device: strided tensors are right and gaps stay untouched", "", double, float,
                   half, bfloat16) {
  for (const Layout inputs : {Layout::bhsd, Layout::aligned_gaps})
    for (const Layout outputs : {Layout::bhsd, Layout::aligned_gaps})
      check_step<TestType>({.shape = {3, 2, 2, 4, 2, 24, 40}, .layout = inputs}, {}, 3, outputs);
}

TEMPLATE_TEST_CASE("Step on a device: tiny, huge, zero and correlated rows are right", "", double, float,
                   half, bfloat16) {
  for (const Rows rows : {Rows::correlated, Rows::small, Rows::tiny, Rows::huge, Rows::mixed})
    for (const std::int64_t tokens : {1, 5}) {
      check_step<TestType>({.shape = {4, tokens, tokens, 2, 1, 40, 24}, .rows = rows}, {}, 4);
      check_step<TestType>({.shape = {2, tokens, tokens, 2, 1, 256, 24}, .rows = rows}, {}, 2);
    }
}

TEMPLATE_TEST_CASE("Step on a device: a prefix and steps make one pass", "", double, float, half, bfloat16) {
  for (const Scale scale : scales)
    check_prefix_and_steps<TestType>(device_stepper(cuda_step<TestType>(24, 40, scale)),
                                     {.scale = scale, .shape = {2, 90, 90, 4, 2, 24, 40}}, 50,
                                     [&](const auto& args) { return definition(Mask::causal, scale, args); });
}

TEMPLATE_TEST_CASE("Step on a device: a draft leaves the states, accepting it gives what plain steps give",
                   "", double, float, half, bfloat16) {
  check_draft<TestType>(device_stepper(cuda_step<TestType>(24, 40, Scale::by_key)),
                        {.shape = {3, 4, 4, 2, 1, 24, 40}});
}

TEMPLATE_TEST_CASE("Step on a device: NaN and infinity reach only the tokens and states that see them", "",
                   double, float, half, bfloat16) {
  for (const double value :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()})
    check_containment<TestType>(device_stepper(cuda_step<TestType>(24, 40, Scale::by_key)),
                                {.shape = {3, 4, 4, 2, 1, 24, 40}}, value);
}

TEMPLATE_TEST_CASE("Step on a device: a lane's bits do not depend on other lanes", "", double, bfloat16) {
  const Case c{.shape = {4, 2, 2, 4, 2, 64, 64}};
  const Inputs<TestType> inputs(c);
  INFO(describe<TestType>(c));
  const Stepper<TestType> step = device_stepper(cuda_step<TestType>(64, 64, c.scale));
  Pool<TestType> pool(c.shape, 4);
  const std::vector<double> o = run_step(step, inputs, pool, {});
  check_lanes_alone(step, inputs, o, pool);
}

TEST_CASE("Step on a device: without lanes, tokens or query heads only what there is changes") {
  check_step<float>({.shape = {0, 1, 1, 2, 1, 24, 40}}, {}, 3);
  check_step<float>({.shape = {2, 0, 0, 2, 1, 24, 40}}, {}, 3);
  check_step<float>({.shape = {2, 3, 3, 0, 1, 24, 40}}, {.output = Presence::absent}, 3);
  const Inputs<float> inputs({.shape = {2, 1, 1, 0, 0, 24, 40}});
  Pool<float> pool(inputs.shape(), 2);
  CHECK(run_step(device_stepper(cuda_step<float>(24, 40, Scale::by_key)), inputs, pool, {}).empty());
}

TEST_CASE("Step on a device: slots outside the pool are idle, `accepted` is taken within its range") {
  const Case c{.shape = {4, 3, 3, 2, 2, 24, 40}};
  const Inputs<float> inputs(c);
  const Stepper<float> step = device_stepper(cuda_step<float>(24, 40, c.scale));
  Pool<float> sound(c.shape, 3), unsound(c.shape, 3);
  const auto o = run_step(step, inputs, sound, {.slot = {-1, 2, 1, -1}, .accepted = {3, 3, 0, 3}});
  CHECK(same_bits(
      run_step(step, inputs, unsound,
               {.slot = {3, 2, 1, std::numeric_limits<std::int32_t>::max()}, .accepted = {3, 4, -7, 3}}),
      o));
  CHECK(unsound == sound);
}

TEST_CASE("Step on a device: counts may come up to 2^44") {
  const Case c{.shape = {2, 3, 3, 3, 3, 24, 40}};
  const Inputs<double> inputs(c);
  constexpr std::int64_t counts[] = {(std::int64_t{1} << 44) - 4, 0};
  const auto set_counts = [&](Pool<double>& pool) { std::copy_n(counts, 2, pool.view().count); };
  Pool<double> before(c.shape, 2);
  set_counts(before);
  for (const CudaStepCall<double> call : cuda_step<double>(24, 40, c.scale).tilings) {
    Pool<double> pool(c.shape, 2);
    set_counts(pool);
    const std::vector<double> o = run_step(device_stepper<double>(call), inputs, pool, {});
    std::vector<double> expected;
    for (const std::int64_t lane : {0, 1}) {
      append(expected, expected_lane(inputs, lane, 3, before, lane).o);
      CHECK(pool.count(lane) == counts[lane] + 3);
    }
    CHECK(relative_error(o, expected) <= bounds<double>.forward);
  }
}
