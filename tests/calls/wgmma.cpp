// Calls that the wgmma engine serves, against the reference: in the emulator, or on a GPU. Compiled once for
// each of its element types, COTTENTION_TEST_ELEMENT. Cases and Problems are tried in turn rather than all
// with all.
#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#if __has_include(<emulation.hpp>)
#include <emulation.hpp>
#endif

#include "support/cases.hpp"
#include "support/catch.hpp"
#include "support/cuda_backward.hpp"
#include "support/cuda_forward.hpp"
#include "support/pool_cases.hpp"
#include "support/wgmma_alone.hpp"
#include "support/wide.hpp"

using cottention::HeadDim, cottention::Mask, cottention::Plan, cottention::Problem, cottention::Scale,
    cottention::Split, cottention::Tiling;
namespace recurrence = cottention::recurrence;
using namespace support;

namespace {

using T = COTTENTION_TEST_ELEMENT;

#if __has_include(<emulation.hpp>)
struct WithoutEarlierLaunches {
  WithoutEarlierLaunches() { cottention::emulation::clear_statistics(); }
};
#else
struct WithoutEarlierLaunches {};
#endif

template <int qk, int v, Mask mask, Scale scale>
using Of = Problem<T, HeadDim{qk, v}, mask, scale>;

/// The Tiling that the library chooses for an output. Calls with it compile in two thirds of the time that
/// calls with all that the library may choose take.
template <cottention::AnyProblem P, recurrence::Output output>
constexpr Tiling tiling_of() {
  return cottention::tuning::wgmma_recurrence<cottention::kernel::Roles<P, output>>;
}
template <cottention::AnyProblem P>
constexpr Tiling forward_tiling() {
  return tiling_of<P, recurrence::Output::o>();
}
/// Of all gradients: their kernels depend on nothing in which the Tilings of dq, dk and dv differ.
template <cottention::AnyProblem P>
constexpr Tiling gradient_tiling() {
  constexpr Tiling dq = tiling_of<P, recurrence::Output::dq>(), dk = tiling_of<P, recurrence::Output::dk>(),
                   dv = tiling_of<P, recurrence::Output::dv>();
  static_assert(dq == dk && dq.stages == dv.stages && dq.min_blocks_per_sm == dv.min_blocks_per_sm);
  Tiling tiling = dq.columns > dv.columns ? dq : dv;
  tiling.warps = 0;
  return tiling;
}

/// Calls f with every mask and scale; the head dims are whole panels of a tile, and parts of them.
template <class F>
void for_each_problem(F f) {
  f.template operator()<Of<64, 64, Mask::causal, Scale::by_key>>();
  f.template operator()<Of<80, 64, Mask::causal, Scale::by_query>>();
  f.template operator()<Of<64, 112, Mask::causal, Scale::none>>();
  f.template operator()<Of<64, 80, Mask::bidirectional, Scale::by_key>>();
  f.template operator()<Of<96, 64, Mask::bidirectional, Scale::by_query>>();
}

template <cottention::AnyProblem P, class Inputs, class Run>
void check_case(Case c, Run run) {
  c.shape.dim_qk = P::head_dim.qk;
  c.shape.dim_v = P::head_dim.v;
  if (c.layout == Layout::gaps) c.layout = Layout::aligned_gaps;
  Inputs inputs(c);
  INFO(describe<T>(c));
  [[maybe_unused]] const WithoutEarlierLaunches clear;
  run(inputs);
}

/// A Problem gets every `every`th of the cases with its mask and scale.
template <class F>
void for_each_in_turn(const std::vector<Case>& some, std::size_t every, F f) {
  std::size_t turn = 0;
  for_each_problem([&]<class P>() {
    for (const Case& c : some)
      if (c.mask == P::mask && c.scale == P::scale && turn++ % every == 0) f.template operator()<P>(c);
  });
}

/// Of such a call the engine serves nothing.
bool is_empty(const cottention::Shape& shape) {
  return shape.batch == 0 || shape.seq_q == 0 || shape.seq_k == 0;
}

/// Lengths, masks and states do not depend on the type, so half gets fewer of the cases, and others.
constexpr std::size_t of_type(std::size_t every) {
  return std::same_as<T, cottention::half> && !is_wide ? 2 * every + 1 : every;
}

/// Forward with the library's choice, which is this engine's wherever there are rows and terms.
void check_forward(const std::vector<Case>& some, std::size_t every, const DeviceManner& manner = {}) {
  for_each_in_turn(some, every, [&]<class P>(const Case& c) {
    check_case<P, Inputs<T>>(c, [&](Inputs<T>& inputs) {
      const auto args = inputs.forward();
      if (is_empty(args.shape)) return;
      Mirror mirror;
      CHECK(cottention::choice<P>(mirror.forward(args), manner.split).o.tiling == forward_tiling<P>());
      check_output(inputs, run_cuda_forward<P, forward_tiling<P>()>(args, manner));
    });
  });
}
/// Backward with one kernel for each gradient.
void check_backward(const std::vector<Case>& some, std::size_t every, const BackwardManner& manner = {}) {
  for_each_in_turn(some, every, [&]<class P>(const Case& c) {
    check_case<P, Inputs<T>>(c, [&](Inputs<T>& inputs) {
      if (!is_empty(inputs.forward().shape)) check_cuda_backward<P, gradient_tiling<P>()>(inputs, manner);
    });
  });
}

/// Holds the latest call to this engine; no head has been left out by its kernels.
void check_engine([[maybe_unused]] const cottention::Shape& shape) {
#if __has_include(<emulation.hpp>)
  if (is_empty(shape)) return;
  const auto& launches = cottention::emulation::launches();
  CHECK(std::any_of(launches.begin(), launches.end(),
                    [](const auto& launch) { return launch.kernel.find("sm90") != std::string::npos; }));
  CHECK(std::none_of(launches.begin(), launches.end(),
                     [](const auto& launch) { return launch.kernel.find("sm80") != std::string::npos; }));
#endif
}

using Widest = Of<128, 128, Mask::causal, Scale::by_key>;
using WidestBidirectional = Of<112, 128, Mask::bidirectional, Scale::none>;

/// Forward and backward with the library's choice, at the widest head dims.
template <cottention::AnyProblem P>
void check_choice(Case c) {
  c.mask = P::mask;
  c.scale = P::scale;
  check_case<P, Inputs<T>>(c, [](Inputs<T>& inputs) {
    check_output(inputs, run_cuda_forward_with<P>(inputs.forward()));
    check_engine(inputs.forward().shape);
    check_cuda_backward<P>(inputs);
  });
}

}  // namespace

TEST_CASE("Wgmma: every length is right") {
  check_forward(cases::lengths(), of_type(4));
  check_backward(cases::lengths(), of_type(9));
}
TEST_CASE("Wgmma: masked tokens add nothing and masked queries get 0") {
  check_forward(cases::paddings(), of_type(3));
  check_backward(cases::paddings(), of_type(5));
}
TEST_CASE("Wgmma: packed sequences are right, empty ones included") {
  check_forward(cases::packed(), of_type(3));
  check_backward(cases::packed(), of_type(5));
}
TEST_CASE("Wgmma: strided tensors are right and gaps stay untouched") {
  check_forward(cases::layouts(), 2, {.layout = Layout::aligned_gaps});
  check_backward(cases::layouts(), 3, {.layout = Layout::aligned_gaps});
}
TEST_CASE("Wgmma: grouped heads are right") {
  check_forward(cases::groups(), of_type(2));
  check_backward(cases::groups(), of_type(3));
}
TEST_CASE("Wgmma: states go in and come out") {
  check_forward(cases::states(), of_type(2));
  check_backward(cases::states(), of_type(3));
}
TEST_CASE("Wgmma: states go in and come out by slot, and others keep every bit") {
  const Case some{.shape = {.heads_q = 2, .heads_kv = 1},
                  .lengths_q = {0, 300, 1, 600},
                  .trailing_q = 70,
                  .trailing_k = 70,
                  .offset_type = OffsetType::int32};
  const std::vector<PoolSlots> slots = pool_slots(4);
  std::size_t turn = of_type(1);
  for_each_problem([&]<class P>() {
    Case c = some;
    c.mask = P::mask, c.scale = P::scale;
    c.shape.dim_qk = P::head_dim.qk, c.shape.dim_v = P::head_dim.v;
    for (const int pieces : {1, 2})
      for (int i = 0; i < 2; ++i)
        check_pool<T>(cuda_forward<P, forward_tiling<P>()>({pieces}), c, slots[turn++ % slots.size()]);
  });
  using P = Of<64, 64, Mask::causal, Scale::by_key>;
  Case c = some;
  c.shape.dim_qk = c.shape.dim_v = 64;
  check_pool_bits<T>(cuda_forward<P, forward_tiling<P>()>({2}), c, slots[2]);
}
TEST_CASE("Wgmma: cross-attention is right") {
  check_forward(cases::cross_attention(), of_type(2));
  check_backward(cases::cross_attention(), of_type(3));
}
TEST_CASE("Wgmma: tiny, huge, zero and correlated rows are right") {
  check_forward(cases::magnitudes(), 1);
  check_backward(cases::magnitudes(), 2);
}
TEST_CASE("Wgmma: sequences in pieces are right, however many") {
  check_forward(
      {{.shape = {1, 700, 700, 2, 1, 0, 0}, .padding = Padding::middle, .initial_state = Presence::present},
       {.mask = Mask::bidirectional, .shape = {1, 100, 700, 2, 1, 0, 0}}},
      1, {.split = {2}});
  check_backward(
      {{.shape = {1, 700, 700, 2, 1, 0, 0}, .padding = Padding::middle, .initial_state = Presence::present}},
      1, {.split = {2}});
}
TEST_CASE("Wgmma: the widest heads are right") {
  const Case c{
      .shape = {1, 200, 200, 1, 1, 0, 0}, .padding = Padding::right, .initial_state = Presence::present};
  check_choice<Widest>(c);
  check_choice<WidestBidirectional>(c);
}
TEST_CASE("Wgmma: calls without rows or terms are right") {
  for (const Presence state : {Presence::absent, Presence::present}) {
    check_choice<Widest>({.shape = {2, 0, 0, 2, 2, 0, 0}, .initial_state = state});
    check_choice<Widest>({.shape = {0, 70, 70, 2, 1, 0, 0}, .initial_state = state});
    check_choice<Widest>(
        {.shape = {.heads_q = 1, .heads_kv = 1}, .lengths_q = {0, 0}, .initial_state = state});
    for (const std::int64_t n : {0, 40})
      check_choice<WidestBidirectional>(
          {.shape = {2, n, 40 - n, 4, 2, 0, 0}, .padding = Padding::right, .initial_state = state});
  }
}

TEST_CASE("Wgmma: few tokens are right, and those whose products nearly vanish") {
  using P = Of<64, 64, Mask::causal, Scale::by_key>;
  for (const std::int64_t n : {1, 2, 3, 9, 15})
    for (std::uint64_t seed = 1; seed <= 3; ++seed) {
      Inputs<T> inputs(Case{.shape = {1, n, n, 1, 1, 64, 64}, .seed = seed});
      check_output(inputs, run_cuda_forward<P, forward_tiling<P>()>(inputs.forward()));
    }
  for (const double size : {33, 41, 50, 60}) {
    Inputs<T> inputs(Case{.shape = {1, 1, 1, 1, 1, 64, 64}});
    make_nearly_orthogonal(inputs.q().row(0, 0), inputs.k().row(0, 0), 64, size);
    for (int d = 0; d < 64; ++d) {
      T& v = inputs.v().row(0, 0)[d];
      v = from_double<T>(cottention::to_double(v) * 0x1p10);
    }
    INFO("elements of about " << size);
    check_output(inputs, run_cuda_forward<P, forward_tiling<P>()>(inputs.forward()));
  }
}

TEST_CASE("Wgmma: NaN and infinity reach only the outputs that see them") {
  using P = Of<64, 64, Mask::causal, Scale::by_key>;
  const double nan = std::numeric_limits<double>::quiet_NaN(),
               infinity = std::numeric_limits<double>::infinity();
  for (const int operand : {0, 1, 2})
    for (const std::int64_t position : {0, 70, 127})
      for (const double value : {nan, infinity}) {
        Inputs<T> inputs(Case{.shape = {1, 130, 130, 2, 1, 64, 64}});
        INFO("operand " << operand << ", position " << position << ", " << value);
        TensorBuffer<T>& x = operand == 0 ? inputs.q() : operand == 1 ? inputs.k() : inputs.v();
        x.row(position, 0)[32] = from_double<T>(value);
        const auto args = inputs.forward();
        const Output got = run_cuda_forward<P, forward_tiling<P>()>(args),
                     expected = expected_output(inputs.description(), args);
        check_spread(got.o, expected.o, 64, bounds<T>.forward);
        check_spread(got.h, expected.h, 64 * 64, bounds<T>.state);
      }
}

TEST_CASE("Wgmma: infinities in v of chunk after chunk are right in wide heads, groups and pieces") {
  using P = Of<64, 128, Mask::causal, Scale::by_key>;
  for (const std::int64_t group : {1, 2})
    for (const Padding padding : {Padding::none, Padding::middle}) {
      Inputs<T> inputs(Case{.shape = {1, 400, 400, 2, 2 / group, 64, 128}, .padding = padding});
      INFO("group " << group << ", padding " << (padding != Padding::none));
      for (const std::int64_t position : {70, 130, 131, 250, 390})
        inputs.v().row(position, 0)[position / 4] =
            from_double<T>(std::numeric_limits<double>::infinity() * (position % 20 == 10 ? 1 : -1));
      const auto args = inputs.forward();
      const Output got = run_cuda_forward_with<P>(args),
                   expected = expected_output(inputs.description(), args);
      check_spread(got.o, expected.o, 1, bounds<T>.forward);
      check_spread(got.h, expected.h, 1, bounds<T>.state);
    }
}

TEST_CASE("Wgmma: a short sequence beside a long one reads no more than its own mask") {
  using P = Of<64, 64, Mask::causal, Scale::by_key>;
  Inputs<T> inputs(Case{.shape = {.heads_q = 1, .heads_kv = 1, .dim_qk = 64, .dim_v = 64},
                        .lengths_q = {512, 1},
                        .padding = Padding::right});
  auto args = inputs.forward();
  check_output(inputs, run_cuda_forward<P, forward_tiling<P>()>(args, {.split = {2}}));
  args.plan = Plan::batch_invariant;
  check_output(inputs, run_cuda_forward<P, forward_tiling<P>()>(args));
}

#if __has_include(<emulation.hpp>)
TEST_CASE("Wgmma: no schedule of threads and copies changes a bit") {
  using P = Of<64, 64, Mask::causal, Scale::by_key>;
  using Q = Of<96, 64, Mask::bidirectional, Scale::by_query>;
  using Wide = Of<80, 64, Mask::causal, Scale::by_query>;
  Inputs<T> inputs(Case{.shape = {1, 200, 200, 2, 1, 64, 64}, .padding = Padding::middle});
  Inputs<T> wide(
      Case{.scale = Scale::by_query, .shape = {1, 200, 200, 2, 1, 80, 64}, .padding = Padding::middle});
  Inputs<T> both(
      Case{.mask = Mask::bidirectional, .scale = Scale::by_query, .shape = {1, 70, 150, 2, 1, 96, 64}});
  Output first, first_of_both;
  Gradient first_gradient;
  cottention::emulation::for_each_schedule([&](const auto& options) {
    INFO(cottention::emulation::describe(options));
    const Output o = run_cuda_forward<P, forward_tiling<P>()>(inputs.forward()),
                 of_both = run_cuda_forward<Q, forward_tiling<Q>()>(both.forward());
    const Gradient gradient = run_cuda_backward<Wide, gradient_tiling<Wide>()>(wide.backward());
    if (first.o.empty()) {
      first = o;
      first_of_both = of_both;
      first_gradient = gradient;
    }
    CHECK(o.o == first.o);
    CHECK(o.h == first.h);
    CHECK(of_both.o == first_of_both.o);
    CHECK(gradient.dq == first_gradient.dq);
    CHECK(gradient.dk == first_gradient.dk);
    CHECK(gradient.dv == first_gradient.dv);
  });
}
#endif

TEST_CASE("Wgmma: alone and in a batch a sequence has the same bits") {
  using P = Of<64, 64, Mask::causal, Scale::by_key>;
  Inputs<T> inputs(Case{.shape = {3, 600, 600, 2, 1, 64, 64}});
  auto args = inputs.forward();
  args.plan = Plan::batch_invariant;
  const Output all = run_cuda_forward<P, forward_tiling<P>()>(args);
  args.shape.batch = 1;
  const Output one = run_cuda_forward<P, forward_tiling<P>()>(args);
  CHECK(std::vector<double>(all.o.begin(), all.o.begin() + static_cast<std::ptrdiff_t>(one.o.size())) ==
        one.o);
}
