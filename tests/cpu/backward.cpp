// The CPU backend's gradients against the reference.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <thread>
#include <vector>

#include "support/cases.hpp"
#include "support/catch.hpp"
#include "support/compare.hpp"
#include "support/cpu_runs.hpp"

using cottention::bfloat16, cottention::half, cottention::Mask, cottention::Scale;
using namespace support;

TEMPLATE_TEST_CASE("Backward: every length is right", "", COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::lengths()) check_backward<TestType>(c);
}

TEMPLATE_TEST_CASE("Backward: every pair of head dims is right", "", COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::head_dims())
    if (c.shape.dim_qk > 1) check_backward<TestType>(c);
  for (const Case& c : cases::wide_head_dims()) check_backward<TestType>(c);
}

TEMPLATE_TEST_CASE("Backward: with dim_qk 1, q and k have no gradient", "", COTTENTION_TEST_ELEMENTS) {
  // norm(q) is a sign then, and its gradient cancels: dq^_i - q^_i (o_i . g_i) = 0. What rounding leaves of
  // the two terms is measured against their size, |o_i . g_i| / ||q_i||; likewise v_j . dv_j for k.
  for (const Case& c :
       cases::of_every_kind({{.shape = {1, 70, 70, 2, 1, 1, 24}}, {.shape = {2, 33, 33, 1, 1, 1, 1}}})) {
    Inputs<TestType> inputs(c);
    INFO(describe<TestType>(c));
    const auto args = inputs.backward();
    const Gradient got = run_backward(cpu_backward<TestType>(c.mask, c.scale), args);
    const Gradient expected = gradient(c.mask, c.scale, args);
    const auto terms = [](const std::vector<double>& a, const std::vector<double>& b,
                          const std::vector<double>& norms) {
      std::vector<double> products(norms.size());
      for (std::size_t i = 0; i < a.size(); ++i) products[i / (a.size() / norms.size())] += a[i] * b[i];
      for (std::size_t row = 0; row < norms.size(); ++row) products[row] /= norms[row];
      return products;
    };
    const std::vector<double> o = definition(c.mask, c.scale, inputs.forward()).o;
    CHECK(relative_error(got.dq, expected.dq, terms(o, inputs.dout().values(), norms_of(inputs.q()))) <=
          bounds<TestType>.gradient);
    CHECK(
        relative_error(got.dk, expected.dk, terms(inputs.v().values(), expected.dv, norms_of(inputs.k()))) <=
        bounds<TestType>.gradient);
    CHECK(relative_error(got.dv, expected.dv) <= bounds<TestType>.gradient);
    CHECK(relative_error(got.dscale_logit, expected.dscale_logit, size_of_dscale_logit(inputs, expected)) <=
          bounds<TestType>.gradient);
    CHECK(relative_error(got.dinitial_state, expected.dinitial_state) <= bounds<TestType>.gradient);
  }
}

TEMPLATE_TEST_CASE("Backward: masked positions get exactly 0", "", COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::paddings()) check_backward<TestType>(c);
}

TEMPLATE_TEST_CASE("Backward: packed sequences are right, empty ones included", "",
                   COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::packed()) check_backward<TestType>(c);
}

TEMPLATE_TEST_CASE("Backward: strided tensors are right and gaps stay untouched", "",
                   COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::layouts())
    for (const Layout layout : {Layout::bshd, Layout::bhsd, Layout::gaps})
      check_backward<TestType>(c, {.layout = layout});
}

TEMPLATE_TEST_CASE("Backward: grouped heads are right", "", COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::groups()) check_backward<TestType>(c);
}

TEMPLATE_TEST_CASE("Backward: gradients pass through states", "", COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::states()) check_backward<TestType>(c);
}

TEMPLATE_TEST_CASE("Backward: sequences of one chunk and of several are right, with states and without", "",
                   COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::forms()) {
    check_backward<TestType>(c);
    const Inputs<TestType> inputs(c);
    INFO(describe<TestType>(c));
    auto args = inputs.backward();
    args.dfinal_state = nullptr;
    const Gradient expected = gradient(c.mask, c.scale, args);
    const bool packed = !c.lengths_q.empty();
    const std::int64_t batch = packed ? 1 : args.shape.batch;
    TensorBuffer<TestType> dq(Layout::bhsd, batch, args.shape.seq_q, args.shape.heads_q, args.shape.dim_qk);
    TensorBuffer<TestType> dk(Layout::bhsd, batch, args.shape.seq_k, args.shape.heads_kv, args.shape.dim_qk);
    TensorBuffer<TestType> dv(Layout::bhsd, batch, args.shape.seq_k, args.shape.heads_kv, args.shape.dim_v);
    args.dq = dq.view(), args.dk = dk.view(), args.dv = dv.view();
    run(cpu_backward<TestType>(c.mask, c.scale), args, {});
    CHECK(relative_error(dq.values(), expected.dq) <= bounds<TestType>.gradient);
    CHECK(relative_error(dk.values(), expected.dk) <= bounds<TestType>.gradient);
    CHECK(relative_error(dv.values(), expected.dv) <= bounds<TestType>.gradient);
  }
}

TEMPLATE_TEST_CASE("Backward: cross-attention is right", "", COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::cross_attention()) check_backward<TestType>(c);
}

TEMPLATE_TEST_CASE("Backward: tiny, huge, zero and correlated rows are right", "", COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::magnitudes()) check_backward<TestType>(c);
}

TEMPLATE_TEST_CASE("Backward: pieces of long sequences are right with any threads", "",
                   COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::pieces()) {
    Inputs<TestType> inputs(c);
    const auto call = cpu_backward<TestType>(c.mask, c.scale);
    const Gradient expected = gradient(c.mask, c.scale, inputs.backward());
    for (const auto& execution : executions()) {
      INFO(describe<TestType>(c) << ", threads " << execution.threads);
      check_gradient(inputs, run_backward(call, inputs.backward(), {.execution = execution}), expected);
    }
  }
}

TEMPLATE_TEST_CASE("Backward: the gradient of m is right where m is large", "", COTTENTION_TEST_ELEMENTS) {
  for (const Scale scale : {Scale::by_key, Scale::by_query})
    for (const float m : {-30.0f, 10.0f, 30.0f, 40.0f}) {
      Inputs<TestType> inputs({.scale = scale, .shape = {1, 70, 70, 2, 1, 8, 8}});
      std::fill(inputs.scale_logit().begin(), inputs.scale_logit().end(), m);
      INFO("m " << m);
      check_gradient(inputs, run_backward(cpu_backward<TestType>(Mask::causal, scale), inputs.backward()));
    }
}

TEMPLATE_TEST_CASE("Backward: 131,072 tokens are right", "[long]", COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::longest(std::same_as<TestType, double> ? 8 : 16))
    check_backward<TestType>(c, {.execution = executor(2)});
}

TEMPLATE_TEST_CASE("Backward: head dims known at compile time are right", "", float, bfloat16) {
  using Square = cottention::Problem<TestType, cottention::HeadDim{64, 64}, Mask::causal, Scale::by_key>;
  using Wide =
      cottention::Problem<TestType, cottention::HeadDim{24, 128}, Mask::bidirectional, Scale::by_query>;
  Inputs<TestType> square({.shape = {2, 77, 77, 2, 1, 64, 64}, .initial_state = Presence::present});
  check_gradient(square, run_backward(backward_of<Square>(), square.backward()));
  Inputs<TestType> wide(
      {.mask = Mask::bidirectional, .scale = Scale::by_query, .shape = {2, 77, 50, 2, 1, 24, 128}});
  check_gradient(wide, run_backward(backward_of<Wide>(), wide.backward()));
}

TEST_CASE("Backward: each gradient may be wanted alone, and dfinal_state left out") {
  for (const Case& c : cases::of_every_kind({{.shape = {2, 70, 70, 4, 2, 24, 16},
                       .padding = Padding::unrelated,
                       .initial_state = Presence::present}})) {
    const Inputs<float> inputs(c);
    INFO(describe<float>(c));
    auto args = inputs.backward();
    args.dfinal_state = nullptr;
    const auto call = cpu_backward<float>(c.mask, c.scale);
    const Gradient expected = gradient(c.mask, c.scale, args);
    const double bound = bounds<float>.gradient;

    const auto check_tensor = [&](cottention::Tensor<float> cottention::BackwardArguments<float>::*wanted,
                                  std::int64_t heads, std::int64_t dim, const std::vector<double>& values) {
      TensorBuffer<float> out(Layout::gaps, 2, 70, heads, dim);
      auto alone = args;
      alone.*wanted = out.view();
      run(call, alone, {});
      CHECK(relative_error(out.values(), values) <= bound);
      CHECK(out.surroundings_untouched());
    };
    using Arguments = cottention::BackwardArguments<float>;
    check_tensor(&Arguments::dq, 4, 24, expected.dq);
    check_tensor(&Arguments::dk, 2, 24, expected.dk);
    check_tensor(&Arguments::dv, 2, 16, expected.dv);

    const auto check_array = [&](float* cottention::BackwardArguments<float>::*wanted,
                                 const std::vector<double>& values) {
      Buffer<float> out(std::ssize(values));
      auto alone = args;
      alone.*wanted = out.data();
      run(call, alone, {});
      CHECK(relative_error(values_of(out), values) <= bound);
      CHECK(out.guards_untouched());
    };
    check_array(&Arguments::dscale_logit, expected.dscale_logit);
    check_array(&Arguments::dinitial_state, expected.dinitial_state);
    run(call, args, {});  // nothing wanted
  }
}

TEST_CASE("Backward: an empty problem succeeds, and its state's gradient passes through") {
  for (const Mask mask : {Mask::causal, Mask::bidirectional})
    for (const int empty : {0, 1, 2}) {
      Case c{.mask = mask, .shape = {2, 3, 3, 2, 1, 4, 5}, .initial_state = Presence::present};
      if (empty == 0) c.shape.batch = 0;
      if (empty == 1) c.shape.seq_q = c.shape.seq_k = 0;
      if (empty == 2) c.shape.heads_q = c.shape.heads_kv = 0;
      check_backward<float>(c);
    }
  const auto call = cpu_backward<float>(Mask::causal, Scale::by_key);
  cottention::BackwardArguments<float> args;
  args.shape = Extents{0, 3, 3, 2, 1, 4, 5};
  run(call, args, {});
}

TEST_CASE("Backward: a group without query heads has the gradients of its final state alone") {
  for (const Mask mask : {Mask::causal, Mask::bidirectional})
    for (const std::int64_t n : {3, 70, 1100})  // 1,100 tokens are split
      for (const int threads : {1, 2}) {
        check_backward<float>({.mask = mask, .shape = {1, n, n, 0, 1, 4, 5}},
                              {.execution = executor(threads)});
        check_backward<float>({.mask = mask, .shape = {2, n, n, 0, 2, 64, 48}},
                              {.execution = executor(threads)});
      }
}

namespace {

/// Where NaN or infinity goes in: one value of one row.
enum class Operand { q, k, v, dout };

template <class T>
void spoil(Inputs<T>& inputs, Operand operand, std::int64_t position, double value) {
  TensorBuffer<T>& x = operand == Operand::q   ? inputs.q()
                       : operand == Operand::k ? inputs.k()
                       : operand == Operand::v ? inputs.v()
                                               : inputs.dout();
  x.row(position, 0)[x.dim() / 2] = from_double<T>(value);
}

}  // namespace

TEMPLATE_TEST_CASE("Backward: NaN and infinity reach only the gradients that see them", "",
                   COTTENTION_TEST_ELEMENTS) {
  const double nan = std::numeric_limits<double>::quiet_NaN(),
               infinity = std::numeric_limits<double>::infinity();
  for (const auto& [c, positions] : cases::spoiled())
    for (const Operand operand : {Operand::q, Operand::k, Operand::v, Operand::dout})
      for (const std::int64_t position : positions)
        for (const double value : {nan, infinity}) {
          Inputs<TestType> inputs(c);
          INFO(describe<TestType>(c) << ", operand " << static_cast<int>(operand) << ", position " << position
                                     << ", " << value);
          spoil(inputs, operand, position, value);
          const auto args = inputs.backward();
          const cottention::Shape& s = args.shape;
          const Gradient got =
              run_backward(cpu_backward<TestType>(c.mask, c.scale), args, {.execution = executor(2)});
          const Gradient expected = gradient(c.mask, c.scale, args);
          const double bound = bounds<TestType>.gradient;
          check_spread(got.dq, expected.dq, s.dim_qk, bound);
          check_spread(got.dk, expected.dk, s.dim_qk, bound);
          check_spread(got.dv, expected.dv, s.dim_v, bound);
          check_spread(got.dscale_logit, expected.dscale_logit, 1, bound);
          check_spread(got.dinitial_state, expected.dinitial_state, s.dim_qk * s.dim_v, bound);
        }
}

TEST_CASE("Backward: calls made at the same time do not disturb each other") {
  constexpr std::int64_t n = 5000;
  const Case c{.shape = {1, n, n, 3, 1, 16, 24}};
  const Inputs<float> inputs(c);
  const auto call = cpu_backward<float>(c.mask, c.scale);
  // The first call is made alone, the others at once. Assertions belong to one thread, so the calls are bare.
  constexpr std::size_t calls = 4;
  std::vector<TensorBuffer<float>> dk;
  std::vector<ExactWorkspace> workspaces;
  std::vector<cottention::BackwardArguments<float>> args(calls, inputs.backward());
  for (auto& a : args) {
    dk.emplace_back(Layout::bshd, 1, n, 1, 16);
    a.dk = dk.back().view();
    workspaces.emplace_back(call.workspace_bytes(a, executor(2)));
  }
  std::vector<cottention::CallStatus> status(calls);
  const auto make_call = [&](std::size_t i) {
    status[i] = call.run(args[i], workspaces[i].view(), executor(2));
  };
  make_call(0);
  std::vector<std::thread> threads;
  for (std::size_t i = 1; i < calls; ++i) threads.emplace_back(make_call, i);
  for (std::thread& thread : threads) thread.join();
  for (std::size_t i = 0; i < calls; ++i) {
    CHECK(status[i].ok());
    CHECK(same_bits(dk[i].values(), dk[0].values()));
  }
}
