// The CPU backend's forward pass against the reference.
#include <cstdint>
#include <limits>
#include <vector>

#include "support/cases.hpp"
#include "support/catch.hpp"
#include "support/checkpoint_cases.hpp"
#include "support/cpu_runs.hpp"
#include "support/pool_cases.hpp"

using cottention::Mask, cottention::Scale, cottention::bfloat16, cottention::half;
using namespace support;

namespace {

template <cottention::Element T>
Forward<T> forwarder(const Case& c, const cottention::cpu::Execution& execution = {}) {
  return [=](const cottention::ForwardArguments<T>& args) {
    run(cpu_forward<T>(c.mask, c.scale), args, execution, Exceptions::none);
  };
}

}  // namespace

TEMPLATE_TEST_CASE("Forward: every length is right", "", COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::lengths()) check_forward<TestType>(c);
}

TEMPLATE_TEST_CASE("Forward: every pair of head dims is right", "", COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::head_dims()) check_forward<TestType>(c);
  for (const Case& c : cases::wide_head_dims()) check_forward<TestType>(c);
}

TEMPLATE_TEST_CASE("Forward: masked tokens add nothing and masked queries get 0", "",
                   COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::paddings()) check_forward<TestType>(c);
}

TEMPLATE_TEST_CASE("Forward: packed sequences are right, empty ones included", "", COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::packed()) check_forward<TestType>(c);
}

TEMPLATE_TEST_CASE("Forward: strided tensors are right and gaps stay untouched", "",
                   COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::layouts())
    for (const Layout layout : {Layout::bshd, Layout::bhsd, Layout::gaps})
      check_forward<TestType>(c, {.layout = layout});
}

TEMPLATE_TEST_CASE("Forward: grouped heads are right", "", COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::groups()) check_forward<TestType>(c);
}

TEMPLATE_TEST_CASE("Forward: states go in and come out, in place too", "", COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::states())
    for (const FinalState final_state : {FinalState::separate, FinalState::in_place})
      check_forward<TestType>(c, {.final_state = final_state});
}

TEMPLATE_TEST_CASE("Forward: states go in and come out by slot, and others keep every bit", "",
                   COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::pools()) {
    const std::int64_t batch = Inputs<TestType>(c).shape().batch;
    for (const PoolSlots& slots : pool_slots(batch)) check_pool<TestType>(forwarder<TestType>(c), c, slots);
  }
}

TEMPLATE_TEST_CASE("Forward: a sequence's bits do not depend on its slots, threads or other sequences", "",
                   COTTENTION_TEST_ELEMENTS) {
  for (const Case& c :
       cases::of_every_mask({{.shape = {.heads_q = 2, .heads_kv = 1, .dim_qk = 16, .dim_v = 8},
       .lengths_q = {700, 0, 2100, 33, 1},
       .trailing_q = 5,
       .trailing_k = 5}}))
    for (const auto& execution : executions())
      for (const PoolSlots& slots : {pool_slots(5)[0], pool_slots(5)[2]})
        check_pool_bits<TestType>(forwarder<TestType>(c, execution), c, slots);
}

TEMPLATE_TEST_CASE("Forward: states at checkpoints are right, and calls that go on there have the same bits",
                   "", COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::checkpoints())
    for (const auto& execution : executions())
      check_checkpoints<TestType>(forwarder<TestType>(c, execution), c, c.packed() ? 128 : 640);
}

TEMPLATE_TEST_CASE("Forward: sequences of one chunk and of several are right, with states and without", "",
                   COTTENTION_TEST_ELEMENTS) {
  for (Case c : cases::forms())
    for (const Presence initial_state : {Presence::absent, Presence::present}) {
      c.initial_state = initial_state;
      Inputs<TestType> inputs(c);
      INFO(describe<TestType>(c));
      const auto call = cpu_forward<TestType>(c.mask, c.scale);
      const Output expected = expected_output(c, inputs.forward());
      check_output(inputs, run_forward(call, inputs.forward(), raising_none<TestType>(c, {})), expected);
      const Manner stateless = raising_none<TestType>(c, {.final_state = FinalState::absent});
      CHECK(relative_error(run_forward(call, inputs.forward(), stateless).o, expected.o) <=
            bounds<TestType>.forward);
    }
}

TEMPLATE_TEST_CASE("Forward: cross-attention is right", "", COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::cross_attention()) check_forward<TestType>(c);
}

TEMPLATE_TEST_CASE("Forward: tiny, huge, zero and correlated rows are right", "", COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::magnitudes()) check_forward<TestType>(c);
}

#ifdef COTTENTION_TEST_FP16
TEST_CASE("Forward: subnormal values, the largest and zeros are right in fp16") {
  for (const Mask mask : {Mask::causal, Mask::bidirectional}) {
    Inputs<half> inputs({.mask = mask, .shape = {2, 70, 70, 2, 1, 40, 24}});
    for (std::int64_t row = 0; row < 2 * 70; ++row)
      for (std::int64_t d = 0; d < 40; ++d) {
        half &q = inputs.q().row(row, row % 2)[d], &k = inputs.k().row(row, 0)[d];
        q = from_double<half>(cottention::to_double(q) * (row % 5 == 0   ? 0
                                                          : row % 2 == 0 ? 0x1p13
                                                                         : 0x1p-16));
        k = from_double<half>(cottention::to_double(k) * (row % 3 == 0 ? 0x1p13 : 0x1p-16));
      }
    check_output(inputs, run_forward(cpu_forward<half>(mask, Scale::by_key), inputs.forward()));
  }
}
#endif

TEMPLATE_TEST_CASE("Forward: pieces of long sequences are right with any threads", "",
                   COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::pieces()) {
    Inputs<TestType> inputs(c);
    const auto call = cpu_forward<TestType>(c.mask, c.scale);
    const Output expected = expected_output(c, inputs.forward());
    for (const auto& execution : executions()) {
      INFO(describe<TestType>(c) << ", threads " << execution.threads);
      const FinalState final_state =
          c.initial_state == Presence::present ? FinalState::in_place : FinalState::separate;
      check_output(inputs,
                   run_forward(call, inputs.forward(), {.execution = execution, .final_state = final_state}),
                   expected);
    }
  }
}

TEMPLATE_TEST_CASE("Forward: 131,072 tokens are right", "[long]", COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::longest(std::same_as<TestType, double> ? 8 : 16))
    check_forward<TestType>(c, {.execution = executor(2)});
}

TEMPLATE_TEST_CASE("Forward: head dims known at compile time are right", "", float, bfloat16) {
  using Square = cottention::Problem<TestType, cottention::HeadDim{64, 64}, Mask::causal, Scale::by_key>;
  using Wide =
      cottention::Problem<TestType, cottention::HeadDim{24, 128}, Mask::bidirectional, Scale::by_query>;
  Inputs<TestType> square({.shape = {2, 77, 77, 2, 1, 64, 64}, .initial_state = Presence::present});
  check_output(square, run_forward(forward_of<Square>(), square.forward()));
  Inputs<TestType> wide(
      {.mask = Mask::bidirectional, .scale = Scale::by_query, .shape = {2, 77, 50, 2, 1, 24, 128}});
  check_output(wide, run_forward(forward_of<Wide>(), wide.forward()));
}

TEST_CASE("Forward: without a final state the outputs are the same") {
  for (const Case& c : cases::states()) {
    const Inputs<float> inputs(c);
    INFO(describe<float>(c));
    const auto call = cpu_forward<float>(c.mask, c.scale);
    const Output without = run_forward(call, inputs.forward(), {.final_state = FinalState::absent});
    CHECK(relative_error(without.o, run_forward(call, inputs.forward()).o) <= bounds<float>.forward);
  }
}

TEST_CASE("Forward: h and count of the final state may be wanted apart") {
  const Case c{
      .shape = {2, 40, 40, 2, 1, 16, 24}, .padding = Padding::middle, .initial_state = Presence::present};
  const Inputs<float> inputs(c);
  const auto call = cpu_forward<float>(c.mask, c.scale);
  const Output both = run_forward(call, inputs.forward());
  TensorBuffer<float> o(Layout::bshd, 2, 40, 2, 24);
  Buffer<float> h(2 * 16 * 24);
  Buffer<std::int64_t> count(2);
  auto args = inputs.forward();
  args.o = o.view();
  args.final_state = {.h = h.data()};
  run(call, args, {});
  CHECK(values_of(h) == both.h);
  args.final_state = {.count = count.data()};
  run(call, args, {});
  CHECK(std::vector<std::int64_t>{count[0], count[1]} == both.count);
}

TEST_CASE("Forward: inputs of stride 0 repeat") {
  // One k and v for both sequences and all heads.
  const Case c{.shape = {2, 40, 40, 2, 2, 16, 24}};
  Inputs<float> inputs(c);
  auto args = inputs.forward();
  args.k.strides = {.batch = 0, .seq = 16, .head = 0};
  args.v.strides = {.batch = 0, .seq = 24, .head = 0};
  const Output got = run_forward(cpu_forward<float>(c.mask, c.scale), args);
  const Output expected = definition(c.mask, c.scale, args);
  CHECK(relative_error(got.o, expected.o) <= bounds<float>.forward);
  CHECK(relative_error(got.h, expected.h) <= bounds<float>.state);
}

TEST_CASE("Forward: an empty problem succeeds and writes nothing but states") {
  for (const Mask mask : {Mask::causal, Mask::bidirectional})
    for (const int empty : {0, 1, 2}) {
      Case c{.mask = mask, .shape = {2, 3, 3, 2, 1, 4, 5}, .initial_state = Presence::present};
      if (empty == 0) c.shape.batch = 0;
      if (empty == 1) c.shape.seq_q = c.shape.seq_k = 0;
      if (empty == 2) c.shape.heads_q = c.shape.heads_kv = 0;
      check_forward<float>(c);
    }
  // Nothing has to point anywhere then.
  const auto call = cpu_forward<float>(Mask::causal, Scale::by_key);
  cottention::ForwardArguments<float> args;
  args.shape = Extents{0, 3, 3, 2, 1, 4, 5};
  run(call, args, {});
}

namespace {

/// Where NaN or infinity goes in: one value of one row.
enum class Operand { q, k, v };

template <class T>
void spoil(Inputs<T>& inputs, Operand operand, std::int64_t position, double value) {
  TensorBuffer<T>& x = operand == Operand::q ? inputs.q() : operand == Operand::k ? inputs.k() : inputs.v();
  x.row(position, 0)[x.dim() / 2] = from_double<T>(value);
}

}  // namespace

TEMPLATE_TEST_CASE("Forward: NaN and infinity reach only the outputs that see them", "",
                   COTTENTION_TEST_ELEMENTS) {
  const double nan = std::numeric_limits<double>::quiet_NaN(),
               infinity = std::numeric_limits<double>::infinity();
  for (const auto& [c, positions] : cases::spoiled())
    for (const Operand operand : {Operand::q, Operand::k, Operand::v})
      for (const std::int64_t position : positions)
        for (const double value : {nan, infinity}) {
          Inputs<TestType> inputs(c);
          INFO(describe<TestType>(c) << ", operand " << static_cast<int>(operand) << ", position " << position
                                     << ", " << value);
          spoil(inputs, operand, position, value);
          const auto args = inputs.forward();
          const Output got =
              run_forward(cpu_forward<TestType>(c.mask, c.scale), args, {.execution = executor(2)});
          const Output expected = expected_output(c, args);
          check_spread(got.o, expected.o, c.shape.dim_v, bounds<TestType>.forward);
          check_spread(got.h, expected.h, c.shape.dim_qk * c.shape.dim_v, bounds<TestType>.state);
        }
}
