// Properties that hold for any shape: what must agree to rounding, and what bit for bit.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "support/cases.hpp"
#include "support/catch.hpp"
#include "support/compare.hpp"
#include "support/cpu_runs.hpp"
#include "support/part.hpp"

using cottention::bfloat16, cottention::half, cottention::Mask, cottention::Plan, cottention::Scale;
using namespace support;

namespace {

using Values = std::vector<double>;

template <cottention::Element T>
void check_close(const Output& got, const Output& expected) {
  CHECK(relative_error(got.o, expected.o) <= bounds<T>.forward);
  CHECK(relative_error(got.h, expected.h) <= bounds<T>.state);
  CHECK(got.count == expected.count);
}

template <cottention::Element T>
ForwardCall<T> forward_call(const Case& c) {
  return cpu_forward<T>(c.mask, c.scale);
}

template <cottention::Element T>
BackwardCall<T> backward_call(const Case& c) {
  return cpu_backward<T>(c.mask, c.scale);
}

}  // namespace

TEMPLATE_TEST_CASE("Property: random problems are right", "", COTTENTION_TEST_ELEMENTS) {
  for (std::uint64_t seed = 100; seed < 150; ++seed) {
    const Case c = cases::random(seed);
    check_forward<TestType>(c, {.execution = executor(2), .layout = c.layout});
    check_backward<TestType>(c, {.execution = executor(2), .layout = c.layout});
  }
}

TEMPLATE_TEST_CASE("Property: any split of a sequence gives what no split gives", "",
                   COTTENTION_TEST_ELEMENTS) {
  Random random(11);
  for (const Scale scale : {Scale::none, Scale::by_key, Scale::by_query}) {
    Case c{.scale = scale, .shape = {1, 300, 300, 4, 2, 24, 16}, .padding = Padding::unrelated};
    c.initial_state = Presence::present;
    Inputs<TestType> inputs(c);
    INFO(describe<TestType>(c));
    const auto whole = inputs.forward();
    const Output expected = expected_output(c, whole);
    for (int split = 0; split < 5; ++split) {
      std::vector<std::int64_t> cuts = {0, random.below(301), random.below(301), random.below(301), 300};
      std::sort(cuts.begin(), cuts.end());
      Output joined;
      std::vector<cottention::Accumulate<TestType>> h = inputs.initial_state();
      std::vector<std::int64_t> count = inputs.initial_count();
      for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
        auto args = part(whole, 0, {cuts[i], cuts[i + 1]}, {cuts[i], cuts[i + 1]});
        args.initial_state = {h.data(), count.data()};
        const Output piece = run_forward(forward_call<TestType>(c), args);
        append(joined.o, piece.o);
        joined.h = piece.h;
        joined.count = count = piece.count;
        std::copy(piece.h.begin(), piece.h.end(), h.begin());
      }
      INFO("cuts " << cuts[1] << ", " << cuts[2] << ", " << cuts[3]);
      check_close<TestType>(joined, expected);
    }
  }
}

TEMPLATE_TEST_CASE("Property: gradients pass between the parts of a split sequence", "",
                   COTTENTION_TEST_ELEMENTS) {
  for (const Scale scale : {Scale::none, Scale::by_key, Scale::by_query})
    for (const std::int64_t cut : {1, 100, 299}) {
      Case c{.scale = scale, .shape = {1, 300, 300, 4, 2, 24, 16}, .initial_state = Presence::present};
      Inputs<TestType> inputs(c);
      INFO(describe<TestType>(c) << ", cut at " << cut);
      const Output head_out =
          run_forward(forward_call<TestType>(c), part(inputs.forward(), 0, {0, cut}, {0, cut}));
      const std::vector<cottention::Accumulate<TestType>> h(head_out.h.begin(), head_out.h.end());
      auto tail_args = part(inputs.backward(), 0, {cut, 300}, {cut, 300});
      tail_args.initial_state = {h.data(), head_out.count.data()};
      const Gradient tail = run_backward(backward_call<TestType>(c), tail_args);
      const std::vector<cottention::Accumulate<TestType>> dh(tail.dinitial_state.begin(),
                                                             tail.dinitial_state.end());
      auto head_args = part(inputs.backward(), 0, {0, cut}, {0, cut});
      head_args.dfinal_state = dh.data();
      Gradient joined = run_backward(backward_call<TestType>(c), head_args);
      append(joined.dq, tail.dq);
      append(joined.dk, tail.dk);
      append(joined.dv, tail.dv);
      for (std::size_t i = 0; i < tail.dscale_logit.size(); ++i)
        joined.dscale_logit[i] += tail.dscale_logit[i];
      check_gradient(inputs, joined);
    }
}

TEST_CASE("Property: states of disjoint parts add") {
  const Case c{.shape = {1, 200, 200, 2, 2, 24, 40}};
  const Inputs<float> inputs(c);
  const auto whole = inputs.forward();
  const Output expected = expected_output(c, whole);
  const Output first = run_forward(forward_call<float>(c), part(whole, 0, {0, 70}, {0, 70}));
  auto rest = part(whole, 0, {70, 200}, {70, 200});
  const std::vector<float> zero(expected.h.size());
  rest.initial_state = {zero.data(), first.count.data()};  // only the count has to be known
  Output sum = run_forward(forward_call<float>(c), rest);
  for (std::size_t i = 0; i < sum.h.size(); ++i) sum.h[i] += first.h[i];
  CHECK(relative_error(sum.h, expected.h) <= bounds<float>.state);
  CHECK(sum.count == expected.count);
}

TEMPLATE_TEST_CASE("Property: two runs agree bit for bit", "", COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::batches()) {
    const Inputs<TestType> inputs(c);
    INFO(describe<TestType>(c));
    const Manner manner{.execution = executor(3)};
    CHECK(same_bits(run_forward(forward_call<TestType>(c), inputs.forward(), manner),
                    run_forward(forward_call<TestType>(c), inputs.forward(), manner)));
    CHECK(same_bits(run_backward(backward_call<TestType>(c), inputs.backward(), manner),
                    run_backward(backward_call<TestType>(c), inputs.backward(), manner)));
  }
}

TEST_CASE("Property: the order in which an executor runs its threads changes no bits") {
  for (const Case& c : cases::batches()) {
    const Inputs<float> inputs(c);
    INFO(describe<float>(c));
    for (const int threads : {2, 4}) {
      const Manner at_once{.execution = executor(threads)};
      const Output out = run_forward(forward_call<float>(c), inputs.forward(), at_once);
      const Gradient gradients = run_backward(backward_call<float>(c), inputs.backward(), at_once);
      for (const Order order : {Order::sequential, Order::reversed}) {
        const Manner manner{.execution = executor(threads, order)};
        CHECK(same_bits(run_forward(forward_call<float>(c), inputs.forward(), manner), out));
        CHECK(same_bits(run_backward(backward_call<float>(c), inputs.backward(), manner), gradients));
      }
    }
  }
}

TEMPLATE_TEST_CASE("Property: batch-invariant results do not depend on threads", "",
                   COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::batches()) {
    const Inputs<TestType> inputs(c);
    INFO(describe<TestType>(c));
    auto forward = inputs.forward();
    auto backward = inputs.backward();
    forward.plan = backward.plan = Plan::batch_invariant;
    const Manner one{.execution = {.threads = 1}};
    const Output out = run_forward(forward_call<TestType>(c), forward, one);
    const Gradient gradients = run_backward(backward_call<TestType>(c), backward, one);
    for (const int threads : {2, 3, 5}) {
      INFO("threads " << threads);
      const Manner manner{.execution = executor(threads)};
      CHECK(same_bits(run_forward(forward_call<TestType>(c), forward, manner), out));
      CHECK(same_bits(run_backward(backward_call<TestType>(c), backward, manner), gradients));
    }
    CHECK(same_bits(run_forward(forward_call<TestType>(c), forward), out));  // as many as there are
    CHECK(same_bits(run_backward(backward_call<TestType>(c), backward), gradients));
  }
}

TEMPLATE_TEST_CASE("Property: batch-invariant results do not depend on the rest of the batch", "",
                   COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::batches()) {
    const Inputs<TestType> inputs(c);
    auto forward = inputs.forward();
    auto backward = inputs.backward();
    forward.plan = backward.plan = Plan::batch_invariant;
    const Manner manner{.execution = executor(2)};
    const Output out = run_forward(forward_call<TestType>(c), forward, manner);
    const Gradient gradients = run_backward(backward_call<TestType>(c), backward, manner);
    for (std::int64_t b = 0; b < inputs.shape().batch; ++b) {
      INFO(describe<TestType>(c) << ", sequence " << b);
      CHECK(same_bits(run_forward(forward_call<TestType>(c), sequence(forward, b), manner),
                      sequence_of(out, inputs, b)));
      Gradient alone = run_backward(backward_call<TestType>(c), sequence(backward, b), manner);
      alone.dscale_logit.clear();
      CHECK(same_bits(alone, sequence_of(gradients, inputs, b)));
      if (!c.packed()) continue;
      // As a packed batch of one.
      const std::int64_t offsets[] = {0, inputs.length_k(b)};
      auto packed_forward = sequence(forward, b);
      auto packed_backward = sequence(backward, b);
      packed_forward.cu_seqlens_q = packed_forward.cu_seqlens_k = offsets;
      packed_backward.cu_seqlens_q = packed_backward.cu_seqlens_k = offsets;
      CHECK(same_bits(run_forward(forward_call<TestType>(c), packed_forward, manner),
                      sequence_of(out, inputs, b)));
      alone = run_backward(backward_call<TestType>(c), packed_backward, manner);
      alone.dscale_logit.clear();
      CHECK(same_bits(alone, sequence_of(gradients, inputs, b)));
    }
  }
}

TEMPLATE_TEST_CASE("Property: permuting the batch permutes the bits", "", COTTENTION_TEST_ELEMENTS) {
  // Sequences in reverse order: the same memory, walked with a negative batch stride.
  for (const Case& c : cases::of_every_kind(
           {{.shape = {4, 100, 100, 2, 1, 24, 40}}, {.shape = {3, 5000, 5000, 1, 1, 8, 8}}})) {
    const Inputs<TestType> inputs(c);
    INFO(describe<TestType>(c));
    const std::int64_t last = c.shape.batch - 1;
    const auto reverse = [&](auto& x, std::int64_t seq, std::int64_t heads, std::int64_t dim) {
      x.strides = cottention::resolve(x.strides, seq, heads, dim);
      x.data += last * x.strides.batch;
      x.strides.batch = -x.strides.batch;
    };
    const auto reverse_all = [&](auto args) {
      const cottention::Shape& s = args.shape;
      reverse(args.q, s.seq_q, s.heads_q, s.dim_qk);
      reverse(args.k, s.seq_k, s.heads_kv, s.dim_qk);
      reverse(args.v, s.seq_k, s.heads_kv, s.dim_v);
      return args;
    };
    const Manner manner{.execution = executor(2)};
    const Output out = run_forward(forward_call<TestType>(c), inputs.forward(), manner);
    const Output permuted = run_forward(forward_call<TestType>(c), reverse_all(inputs.forward()), manner);
    auto backward = inputs.backward();
    backward.dfinal_state = nullptr;
    const Gradient gradients = run_backward(backward_call<TestType>(c), backward, manner);
    backward = reverse_all(backward);
    reverse(backward.dout, c.shape.seq_q, c.shape.heads_q, c.shape.dim_v);
    const Gradient permuted_gradients = run_backward(backward_call<TestType>(c), backward, manner);
    for (std::int64_t b = 0; b <= last; ++b) {
      CHECK(same_bits(sequence_of(permuted, inputs, b), sequence_of(out, inputs, last - b)));
      CHECK(same_bits(sequence_of(permuted_gradients, inputs, b), sequence_of(gradients, inputs, last - b)));
    }
  }
}

TEMPLATE_TEST_CASE("Property: permuting a packed batch permutes the bits", "", COTTENTION_TEST_ELEMENTS) {
  // The second batch has the same sequences, two of them exchanged: its q, k and v are copied row by row.
  for (const Case& c :
       cases::of_every_kind({{.shape = {.heads_q = 2, .heads_kv = 1, .dim_qk = 24, .dim_v = 40},
       .lengths_q = {33, 5000, 0, 100}}})) {
    const Inputs<TestType> inputs(c);
    Case exchanged = c;
    exchanged.lengths_q = {33, 100, 0, 5000};
    constexpr std::int64_t from[] = {0, 3, 2, 1};
    Inputs<TestType> other(exchanged);
    INFO(describe<TestType>(c));
    Inputs<TestType> source(c);
    for (std::int64_t b = 0; b < 4; ++b)
      for (std::int64_t i = 0; i < other.length_q(b); ++i) {
        const auto copy = [&](TensorBuffer<TestType>& to, TensorBuffer<TestType>& x) {
          for (std::int64_t h = 0; h < x.heads(); ++h)
            std::copy_n(x.row(source.start_q(from[b]) + i, h), x.dim(), to.row(other.start_q(b) + i, h));
        };
        copy(other.q(), source.q());
        copy(other.k(), source.k());
        copy(other.v(), source.v());
        copy(other.dout(), source.dout());
      }
    other.scale_logit() = source.scale_logit();
    auto backward = source.backward(), other_backward = other.backward();
    backward.dfinal_state = other_backward.dfinal_state = nullptr;
    const Manner manner{.execution = executor(2)};
    const Output out = run_forward(forward_call<TestType>(c), source.forward(), manner);
    const Output permuted = run_forward(forward_call<TestType>(c), other.forward(), manner);
    const Gradient gradients = run_backward(backward_call<TestType>(c), backward, manner);
    const Gradient permuted_gradients = run_backward(backward_call<TestType>(c), other_backward, manner);
    for (std::int64_t b = 0; b < 4; ++b) {
      CHECK(same_bits(sequence_of(permuted, other, b), sequence_of(out, source, from[b])));
      CHECK(same_bits(sequence_of(permuted_gradients, other, b), sequence_of(gradients, source, from[b])));
    }
  }
}

namespace {

template <cottention::Element T>
void scale_rows(TensorBuffer<T>& x, double factor) {
  for (std::int64_t position = 0; position < x.positions(); ++position)
    for (std::int64_t h = 0; h < x.heads(); ++h)
      for (std::int64_t d = 0; d < x.dim(); ++d) {
        T& value = x.row(position, h)[d];
        value = from_double<T>(cottention::to_double(value) * factor);
      }
}

}  // namespace

TEMPLATE_TEST_CASE("Property: scaling q or k by a power of two changes no bits", "",
                   COTTENTION_TEST_ELEMENTS) {
  for (const Case& c : cases::of_every_kind({{.shape = {2, 70, 70, 2, 1, 24, 40}}})) {
    Inputs<TestType> inputs(c), scaled(c);
    INFO(describe<TestType>(c));
    scale_rows(scaled.q(), 4);
    scale_rows(scaled.k(), std::same_as<TestType, half> ? 0x1p3 : 0x1p-3);  // small halves would lose bits
    CHECK(same_bits(run_forward(forward_call<TestType>(c), scaled.forward()),
                    run_forward(forward_call<TestType>(c), inputs.forward())));
    // Gradients scale inversely; in fp16 some fall below the normal range and lose bits.
    if (std::same_as<TestType, half>) continue;
    const Gradient gradients = run_backward(backward_call<TestType>(c), inputs.backward());
    Gradient unscaled = run_backward(backward_call<TestType>(c), scaled.backward());
    for (double& x : unscaled.dq) x *= 4;
    for (double& x : unscaled.dk) x *= 0x1p-3;
    CHECK(same_bits(unscaled, gradients));
  }
}

TEST_CASE("Property: scaling q or k by any positive number changes only rounding") {
  using TestType = float;  // 16-bit rows are not what they were, scaled
  for (const Case& c : cases::of_every_kind({{.shape = {2, 70, 70, 2, 1, 24, 40}}})) {
    Inputs<TestType> inputs(c), scaled(c);
    INFO(describe<TestType>(c));
    scale_rows(scaled.q(), 3.7);
    scale_rows(scaled.k(), 0.013);
    check_close<TestType>(run_forward(forward_call<TestType>(c), scaled.forward()),
                          run_forward(forward_call<TestType>(c), inputs.forward()));
    Gradient unscaled = run_backward(backward_call<TestType>(c), scaled.backward());
    for (double& x : unscaled.dq) x *= 3.7;
    for (double& x : unscaled.dk) x *= 0.013;
    check_gradient(inputs, unscaled, run_backward(backward_call<TestType>(c), inputs.backward()));
  }
}

TEMPLATE_TEST_CASE("Property: bidirectional attention ignores the order of keys", "",
                   COTTENTION_TEST_ELEMENTS) {
  for (const Scale scale : {Scale::none, Scale::by_key, Scale::by_query})
    for (const std::int64_t seq_k : {90, 5000}) {
      Case c{.mask = Mask::bidirectional, .scale = scale, .shape = {2, 40, seq_k, 2, 1, 16, 24}};
      c.padding = Padding::right;
      const Inputs<TestType> inputs(c);
      INFO(describe<TestType>(c));
      auto args = inputs.forward();
      const Output out = run_forward(forward_call<TestType>(c), args);
      // The same keys and values backwards, by a negative stride; so is the mask.
      for (auto* x : {&args.k, &args.v}) {
        const std::int64_t dim = x == &args.k ? 16 : 24;
        x->data += (seq_k - 1) * dim;
        x->strides = {.batch = seq_k * dim, .seq = -dim, .head = dim};
      }
      std::vector<std::uint8_t> mask;
      for (std::int64_t b = 0; b < 2; ++b)
        for (std::int64_t j = seq_k - 1; j >= 0; --j) mask.push_back(args.key_mask[b * seq_k + j]);
      args.key_mask = mask.data();
      check_close<TestType>(run_forward(forward_call<TestType>(c), args), out);
    }
}

TEMPLATE_TEST_CASE("Property: tilings agree to rounding", "", float, bfloat16) {
  const auto check = [&]<class P>(P) {
    Inputs<TestType> inputs({.mask = P::mask,
                             .scale = P::scale,
                             .shape = {2, 150, 150, 4, 2, 24, 40},
                             .padding = Padding::middle,
                             .initial_state = Presence::present});
    const auto check_tiling = [&](const ForwardCall<TestType>& forward,
                                  const BackwardCall<TestType>& backward) {
      check_output(inputs, run_forward(forward, inputs.forward()));
      check_gradient(inputs, run_backward(backward, inputs.backward()));
    };
    check_tiling(forward_of<P, cottention::Tiling{.chunk = 16}>(),
                 backward_of<P, cottention::Tiling{.chunk = 16}>());
    check_tiling(forward_of<P, cottention::Tiling{.chunk = 64}>(),
                 backward_of<P, cottention::Tiling{.chunk = 64}>());
  };
  check(cottention::Problem<TestType, cottention::any_head_dim, Mask::causal, Scale::by_key>{});
  check(cottention::Problem<TestType, cottention::any_head_dim, Mask::bidirectional, Scale::by_query>{});
}

TEST_CASE("m may be float beside elements in double, with the bits of the same m in double") {
  Inputs<double> inputs({.scale = Scale::by_query, .shape = {1, 21, 21, 4, 2, 16, 24}});
  std::vector<float> m;
  for (double& x : inputs.scale_logit()) {
    m.push_back(static_cast<float>(x));
    x = static_cast<double>(m.back());
  }
  auto forward_args = inputs.forward();
  auto backward_args = inputs.backward();
  const auto forward = cpu_forward<double>(Mask::causal, Scale::by_query);
  const auto backward = cpu_backward<double>(Mask::causal, Scale::by_query);
  const Output output = run_forward(forward, forward_args);
  const Gradient gradient = run_backward(backward, backward_args);
  check_output(inputs, output);
  check_gradient(inputs, gradient);
  forward_args.scale_logit = m.data();
  backward_args.scale_logit = m.data();
  CHECK(same_bits(run_forward(forward, forward_args), output));
  CHECK(same_bits(run_backward(backward, backward_args), gradient));
}
