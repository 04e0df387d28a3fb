// Gradients of calls whose dk and dv one kernel of the wgmma engine makes, against the reference: in the
// emulator, or on a GPU. Compiled for the element type COTTENTION_TEST_ELEMENT.
#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#if __has_include(<emulation.hpp>)
#include <emulation.hpp>
#endif

#include "support/backward_turns.hpp"
#include "support/cases.hpp"
#include "support/catch.hpp"
#include "support/common_direction.hpp"
#include "support/cuda_backward.hpp"
#include "support/wgmma_alone.hpp"

using cottention::HeadDim, cottention::Mask, cottention::Problem, cottention::Scale;
using namespace support;

namespace {

using T = COTTENTION_TEST_ELEMENT;
/// Head dims are whole panels of a tile, and parts of them.
using ByKey = Problem<T, HeadDim{128, 64}, Mask::causal, Scale::by_key>;
using ByQuery = Problem<T, HeadDim{80, 64}, Mask::causal, Scale::by_query>;
using Unscaled = Problem<T, HeadDim{64, 112}, Mask::causal, Scale::none>;
using ApplyByKey = Problem<T, HeadDim{64, 128}, Mask::bidirectional, Scale::by_key>;
using ApplyByQuery = Problem<T, HeadDim{112, 80}, Mask::bidirectional, Scale::by_query>;

const Case& case_of(const Case& c) { return c; }
const Case& case_of(const Inputs<T>& inputs) { return inputs.description(); }
/// Checks the gradients of inputs or a case, and that one kernel of this engine made dk and dv.
template <cottention::AnyProblem P, class Given>
void check(Given&& given, const BackwardManner& manner = {}) {
#if __has_include(<emulation.hpp>)
  cottention::emulation::clear_statistics();
#endif
  check_cuda_backward<P>(given, manner);
#if __has_include(<emulation.hpp>)
  const Case& c = case_of(given);
  if (c.shape.batch == 0 || (c.shape.seq_q == 0 && c.lengths_q.empty())) return;
  const auto& launches = cottention::emulation::launches();
  const char* const kernel = P::mask == Mask::causal ? "sm9012KeyGradients" : "sm9016KeyGradientApply";
  CHECK(std::count_if(launches.begin(), launches.end(), [kernel](const auto& launch) {
          return launch.kernel.find(kernel) != std::string::npos;
        }) == 1);
  CHECK(std::none_of(launches.begin(), launches.end(),
                     [](const auto& launch) { return launch.kernel.find("sm80") != std::string::npos; }));
#endif
}

template <class F>
void for_each_problem(F f) {
  f.template operator()<ByKey>();
  f.template operator()<ByQuery>();
  f.template operator()<Unscaled>();
  f.template operator()<ApplyByKey>();
  f.template operator()<ApplyByQuery>();
}

/// Every `every`th case of each mask, of half every other one of these, with the Problem of its mask and
/// scale.
void check_all(const std::vector<Case>& some, std::size_t every, BackwardManner manner = {}) {
  manner.split = {1};
  if (std::same_as<T, cottention::half>) every *= 2;
  std::size_t turns[2] = {};
  for (Case c : some) {
    if (turns[c.mask == Mask::causal ? 0 : 1]++ % every != 0) continue;
    if (c.layout == Layout::gaps) c.layout = Layout::aligned_gaps;
    for_each_problem([&]<class P>() {
      if (c.mask == P::mask && c.scale == P::scale) check<P>(c, manner);
    });
  }
}

}  // namespace

TEST_CASE("Wgmma dk and dv: every length is right") { check_all(cases::lengths(), 5); }
TEST_CASE("Wgmma dk and dv: masked tokens add nothing") { check_all(cases::paddings(), 3); }
TEST_CASE("Wgmma dk and dv: packed sequences are right, empty ones included") {
  check_all(cases::packed(), 3);
}
TEST_CASE("Wgmma dk and dv: strided tensors are right and gaps stay untouched") {
  check_all(cases::layouts(), 3, {.layout = Layout::aligned_gaps});
}
TEST_CASE("Wgmma dk and dv: grouped heads are right") { check_all(cases::groups(), 2); }
TEST_CASE("Wgmma dk and dv: states go in and come out") { check_all(cases::states(), 2); }
TEST_CASE("Wgmma dk and dv: tiny, huge, zero and correlated rows are right") {
  check_all(cases::magnitudes(), 2);
}
TEST_CASE("Wgmma dk and dv: few tokens are right") {
  for (const std::int64_t n : {1, 3, 15})
    for_each_problem([&]<class P>() { check<P>(Case{.mask = P::mask, .shape = {1, n, n, 2, 1, 0, 0}}); });
}
TEST_CASE("Wgmma dk and dv: sequences in pieces are right, however many") {
  Case whole{
      .shape = {1, 700, 700, 2, 1, 0, 0}, .padding = Padding::middle, .initial_state = Presence::present};
  const Case packed{
      .shape = {.heads_q = 1, .heads_kv = 1}, .lengths_q = {70, 600, 0}, .initial_state = Presence::present};
  for_each_problem([&]<class P>() {
    whole.mask = P::mask;
    check<P>(whole, {.split = {2}});
  });
  check<ByKey>(packed, {.split = {2}});
}
TEST_CASE("Wgmma dk and dv: NaN and infinity reach only what sees them") {
  const double nan = std::numeric_limits<double>::quiet_NaN(),
               infinity = std::numeric_limits<double>::infinity();
  for (const int operand : {0, 1, 2, 3})
    for (const double value : {nan, infinity})
      backward_turns::check_spread_of<ByKey>(Case{.shape = {1, 130, 130, 2, 1, 128, 64}}, operand,
                                             operand < 2 ? 70 : 129, value, Presence::absent);
}

TEST_CASE("Wgmma dk and dv: bidirectional, every key sees NaN and infinity of queries") {
  const double nan = std::numeric_limits<double>::quiet_NaN(),
               infinity = std::numeric_limits<double>::infinity();
  for (const int operand : {0, 1, 2, 3})
    for (const double value : {nan, infinity})
      backward_turns::check_spread_of<ApplyByKey>(
          Case{.mask = Mask::bidirectional, .shape = {1, 70, 130, 2, 1, 64, 128}}, operand,
          operand % 2 == 0 ? 20 : 69, value, Presence::absent);
}

TEST_CASE("Wgmma dk and dv: rows that share a direction are right") {
  constexpr std::int64_t length = 520;
  for_each_common_direction(length, [](double spread, std::int64_t first, std::int64_t last) {
    INFO("positions " << first << " to " << last << ", spread " << spread);
    const auto check_of = [&]<class P>() {
      Inputs<T> inputs(Case{.mask = P::mask,
                            .scale = P::scale,
                            .shape = {1, length, length, 2, 1, P::head_dim.qk, P::head_dim.v}});
      share_direction(inputs, first, last, spread);
      check<P>(inputs);
    };
    check_of.operator()<ByKey>();
    check_of.operator()<ByQuery>();
    check_of.operator()<Unscaled>();
  });
}

TEST_CASE("Wgmma dk and dv: rows behind which others share a direction no more are right") {
  constexpr std::int64_t length = 1088;
  for (const double size : {10.0, 100.0}) {  // in half dv must not overflow
    INFO("size " << size);
    Inputs<T> inputs(Case{.scale = Scale::by_key,
                          .shape = {1, length, length, 1, 1, ByKey::head_dim.qk, ByKey::head_dim.v}});
    share_direction(inputs, 0, 576, 0.02);
    enlarge_dout(inputs, 448, 576, size);  // the first chunks of the reverse walk that share it
    check<ByKey>(inputs);
  }
}

#if __has_include(<emulation.hpp>)
template <cottention::AnyProblem P>
void check_schedules(const Case& c) {
  Inputs<T> inputs(c);
  Gradient first;
  cottention::emulation::for_each_schedule([&](const auto& options) {
    INFO(cottention::emulation::describe(options));
    const Gradient gradient = run_cuda_backward<P>(
        inputs.backward(),
        {.split = {1}, .wanted = std::array{Wanted::dk, Wanted::dv, Wanted::dinitial_state}});
    if (first.dk.empty()) first = gradient;
    CHECK(gradient.dk == first.dk);
    CHECK(gradient.dv == first.dv);
    CHECK(gradient.dinitial_state == first.dinitial_state);
  });
}
TEST_CASE("Wgmma dk and dv: no schedule of threads and copies changes a bit") {
  check_schedules<ByQuery>(
      {.scale = Scale::by_query, .shape = {1, 200, 200, 2, 1, 80, 64}, .padding = Padding::middle});
  check_schedules<ApplyByKey>({.mask = Mask::bidirectional,
                               .scale = Scale::by_key,
                               .shape = {1, 70, 330, 2, 1, 64, 128},
                               .padding = Padding::middle});
}
#endif
