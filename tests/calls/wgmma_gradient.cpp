// Gradients of causal calls that one kernel of the wgmma engine makes, against the reference: in the
// emulator, or on a GPU. It takes S from final_h or sums it first. Compiled for the element type
// COTTENTION_TEST_ELEMENT.
#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
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
#include "support/wide.hpp"

using cottention::HeadDim, cottention::Mask, cottention::Problem, cottention::Scale;
using namespace support;

namespace {

using T = COTTENTION_TEST_ELEMENT;
constexpr bool is_half = std::same_as<T, cottention::half>;
/// Lengths, masks and states do not depend on the type, so half gets fewer of the cases.
constexpr bool has_fewer = is_half && !is_wide;
constexpr std::size_t some_of = has_fewer ? 2 : 1;
template <Scale scale>
using Of = Problem<T, HeadDim{64, 64}, Mask::causal, scale>;

/// Checks the gradients of a case, and that one kernel of this engine made them.
template <cottention::AnyProblem P>
void check_as_given(Inputs<T>& inputs, const BackwardManner& manner) {
#if __has_include(<emulation.hpp>)
  cottention::emulation::clear_statistics();
#endif
  check_cuda_backward<P>(inputs, manner);
#if __has_include(<emulation.hpp>)
  const cottention::Shape s = inputs.description().shape;
  if (s.batch == 0 || s.seq_q == 0) return;
  const auto& launches = cottention::emulation::launches();
  CHECK(std::count_if(launches.begin(), launches.end(), [](const auto& launch) {
          return launch.kernel.find("sm908Gradient") != std::string::npos;
        }) == 1);
  CHECK(std::none_of(launches.begin(), launches.end(),
                     [](const auto& launch) { return launch.kernel.find("sm80") != std::string::npos; }));
#endif
}

/// The same with S from final_h and sequences that are not cut.
template <cottention::AnyProblem P>
void check(Inputs<T>& inputs, BackwardManner manner = {}) {
  manner.final_h = Presence::present;
  manner.split = {1};
  check_as_given<P>(inputs, manner);
}

template <class F>
void for_each_scale(F f) {
  f.template operator()<Of<Scale::by_key>>();
  f.template operator()<Of<Scale::by_query>>();
  f.template operator()<Of<Scale::none>>();
}

/// Every `every`th causal case with its scale.
void check_all(const std::vector<Case>& some, std::size_t every, const BackwardManner& manner = {}) {
  std::size_t turn = 0;
  for (Case c : some) {
    if (c.mask != Mask::causal || turn++ % every != 0) continue;
    c.shape.dim_qk = c.shape.dim_v = 64;
    if (c.layout == Layout::gaps) c.layout = Layout::aligned_gaps;
    for_each_scale([&]<class P>() {
      if (c.scale != P::scale) return;
      Inputs<T> inputs(c);
      check<P>(inputs, manner);
    });
  }
}

}  // namespace

TEST_CASE("Wgmma gradients: every length is right") { check_all(cases::lengths(), 2 * some_of); }
TEST_CASE("Wgmma gradients: masked tokens add nothing and masked queries get 0") {
  check_all(cases::paddings(), has_fewer ? 3 : 1);
}
TEST_CASE("Wgmma gradients: packed sequences are right, empty ones included") {
  check_all(cases::packed(), some_of);
}
TEST_CASE("Wgmma gradients: strided tensors are right and gaps stay untouched") {
  check_all(cases::layouts(), 1, {.layout = Layout::aligned_gaps});
}
TEST_CASE("Wgmma gradients: grouped heads are right") { check_all(cases::groups(), some_of); }
TEST_CASE("Wgmma gradients: states go in and come out") { check_all(cases::states(), some_of); }
TEST_CASE("Wgmma gradients: tiny, huge, zero and correlated rows are right") {
  check_all(cases::magnitudes(), 1);
}

TEST_CASE("Wgmma gradients: few tokens are right") {
  for (const std::int64_t n : {1, 2, 3, 9, 15, 17})
    for_each_scale([&]<class P>() {
      Inputs<T> inputs(Case{.scale = P::scale, .shape = {1, n, n, 2, 1, 64, 64}});
      check<P>(inputs);
    });
}

TEST_CASE("Wgmma gradients: NaN and infinity reach only what sees them") {
  using P = Of<Scale::by_key>;
  const double nan = std::numeric_limits<double>::quiet_NaN(),
               infinity = std::numeric_limits<double>::infinity();
  for (const int operand : {0, 1, 2, 3})
    for (const std::int64_t position : {0, 70, 129})
      for (const double value : {nan, infinity})
        backward_turns::check_spread_of<P>(Case{.shape = {1, 130, 130, 2, 1, 64, 64}}, operand, position,
                                           value, Presence::present);
}

TEST_CASE("Wgmma gradients: without final_h and in pieces they are right") {
  const Case whole{.shape = {2, 130, 130, 4, 2, 64, 64}, .padding = Padding::middle};
  const Case packed{.shape = {.heads_q = 2, .heads_kv = 1, .dim_qk = 64, .dim_v = 64},
                    .lengths_q = {70, 1000, 0, 1, 600},
                    .trailing_q = 5,
                    .trailing_k = 5,
                    .padding = Padding::middle,
                    .initial_state = Presence::present};
  const Case batch{.shape = {2, 1100, 1100, 1, 1, 64, 64}, .initial_state = Presence::present};
  const auto run = [](Case c, int pieces, Presence final_h) {
    for_each_scale([&]<class P>() {
      if (has_fewer && static_cast<int>(P::scale) != pieces % 3) return;  // the scales in turn
      c.scale = P::scale;
      Inputs<T> inputs(c);
      check_as_given<P>(inputs, {.split = {pieces}, .final_h = final_h});
    });
  };
  run(whole, 1, Presence::absent);
  run(packed, 1, Presence::absent);
  run(packed, 3, Presence::absent);
  run(packed, 2, Presence::present);
  run(batch, 4, Presence::absent);
  run(batch, 2, Presence::present);
}

TEST_CASE("Wgmma gradients: in the batch-invariant plan a sequence's bits are its own") {
  using P = Of<Scale::by_query>;
  const Inputs<T> inputs(Case{.scale = P::scale,
                              .shape = {.heads_q = 2, .heads_kv = 1, .dim_qk = 64, .dim_v = 64},
                              .lengths_q = {600, 1100},
                              .padding = Padding::middle});
  auto args = inputs.backward();
  args.plan = cottention::Plan::batch_invariant;
  const auto starts_with = [](const std::vector<double>& all, const std::vector<double>& some) {
    return !some.empty() && some.size() <= all.size() && std::equal(some.begin(), some.end(), all.begin());
  };
  const Gradient both = run_cuda_backward<P>(args);
  args.shape.batch = 1;
  for (const std::int64_t seq : {1700, 600}) {
    args.shape.seq_q = args.shape.seq_k = seq;
    const Gradient one = run_cuda_backward<P>(args);
    const auto rows = [](std::vector<double> x, std::size_t size) { return x.resize(size), x; };
    CHECK(starts_with(both.dq, rows(one.dq, 600 * 2 * 64)));
    CHECK(starts_with(both.dk, rows(one.dk, 600 * 64)));
    CHECK(starts_with(both.dv, rows(one.dv, 600 * 64)));
    CHECK(starts_with(both.dinitial_state, one.dinitial_state));
  }
}

TEST_CASE("Wgmma gradients: dq of a state that vanishes beside later ones is made again") {
  // S of the first chunks of a piece is far below the rounding of what comes later in it.
  const auto run = []<class P>(double late, std::int64_t length, std::int64_t first_late, int pieces) {
    Inputs<T> inputs(Case{.scale = P::scale, .shape = {1, length, length, 1, 1, 64, 64}});
    for (std::int64_t position = first_late; position < length; ++position)
      for (int d = 0; d < 64; ++d) {
        T& v = inputs.v().row(position, 0)[d];
        v = from_double<T>(cottention::to_double(v) * late);
        T& dout = inputs.dout().row(position, 0)[d];
        dout = from_double<T>(cottention::to_double(dout) / late / late);
      }
    check_as_given<P>(inputs,
                      {.split = {pieces}, .final_h = pieces == 1 ? Presence::present : Presence::absent});
  };
  // In half, later rows stay in its range.
  for (const double late : {0x1p6, is_half ? 0x1p7 : 0x1p13, is_half ? 0x1p8 : 0x1p20}) {
    INFO("later rows of v are " << late << " times as long");
    run.operator()<Of<Scale::by_key>>(late, 320, 64, 1);
    run.operator()<Of<Scale::by_query>>(late, 320, 64, 1);
  }
  constexpr double late = is_half ? 0x1p8 : 0x1p20;
  run.operator()<Of<Scale::by_query>>(late, 600, 64, 2);  // of the first piece
  run.operator()<Of<Scale::by_key>>(late, 600, 384, 2);   // of the second
  run.operator()<Of<Scale::by_query>>(late, 600, 384, 2);
}

TEST_CASE("Wgmma gradients: dq of dout that is zero is zero, and not made again") {
  for_each_scale([]<class P>() {
    // The second piece alone has queries whose dout is not zero, or none has.
    for (const int pieces_of_zeros : {2, 1}) {
      Inputs<T> inputs(Case{.scale = P::scale, .shape = {1, 600, 600, 1, 1, 64, 64}});
      for (std::int64_t position = 0; position < (pieces_of_zeros == 2 ? 600 : 320); ++position)
        for (int d = 0; d < 64; ++d) inputs.dout().row(position, 0)[d] = from_double<T>(0);
      auto args = inputs.backward();
      args.dfinal_state = nullptr;
#if __has_include(<emulation.hpp>)
      cottention::emulation::clear_statistics();
#endif
      const Gradient got = run_cuda_backward<P>(args, {.split = {2}});
      CHECK(std::all_of(got.dq.begin(), got.dq.begin() + 320 * 64, [](double x) { return x == 0; }));
#if __has_include(<emulation.hpp>)
      // Walk writes rows of dq where a flag is set.
      const auto& launches = cottention::emulation::launches();
      CHECK(std::none_of(launches.begin(), launches.end(), [](const auto& launch) {
        return launch.kernel.find("sm904Walk") != std::string::npos &&
               launch.statistics.global_bytes_written != 0;
      }));
#endif
    }
  });
}

TEST_CASE("Wgmma gradients: rows that share a direction are right") {
  constexpr std::int64_t length = 520;
  for_each_common_direction(length, [](double spread, std::int64_t first, std::int64_t last) {
    INFO("positions " << first << " to " << last << ", spread " << spread);
    for_each_scale([&]<class P>() {
      Inputs<T> inputs(Case{.scale = P::scale, .shape = {1, length, length, 2, 1, 64, 64}});
      share_direction(inputs, first, last, spread);
      check<P>(inputs);
    });
  });
}

TEST_CASE("Wgmma gradients: rows behind which others share a direction no more are right") {
  constexpr std::int64_t length = 1088;
  for (const double size : {10.0, 100.0}) {  // in half dv must not overflow
    INFO("size " << size);
    Inputs<T> inputs(Case{.scale = Scale::by_key, .shape = {1, length, length, 1, 1, 64, 64}});
    share_direction(inputs, 0, 576, 0.02);
    enlarge_dout(inputs, 448, 576, size);  // the first chunks of the reverse walk that share it
    check<Of<Scale::by_key>>(inputs);
  }
}

TEST_CASE("Wgmma gradients: columns and rows of very different size are right") {
  // What elements of q, k, v and dout, by operand, position and column, are multiplied by.
  using Factor = double (*)(int, int, int);
  const std::pair<const char*, Factor> some[] = {
      {"columns of v and dout",
       [](int operand, int, int d) {
         return operand < 2 ? 1.0 : (d % 3 == 0) == (operand == 2) ? 1e2 : 1e-2;
       }},
      {"columns of q and k", [](int operand, int, int d) { return operand > 1 || d < 20 ? 1.0 : 1e-3; }},
      {"rows",
       [](int operand, int position, int) {
         if (operand < 2 || position % 3 == 2) return 1.0;
         return position % 3 != operand - 2 ? 1e-4 : operand == 2 ? 1e3 : 10;
       }},
      {"later queries, of which no key takes anything, and earlier ones",
       [](int operand, int position, int d) {
         const bool is_later = position >= 100, first_columns = d < 16;
         if (operand == 1 || operand == 2) return first_columns ? 0.0 : operand == 1 ? 1.0 : 1e4;
         if (is_later != first_columns) return 0.0;
         return operand == 0 ? 1.0 : is_later ? 1e4 : 1e-4;
       }}};
  for (const auto& [name, factor] : some)
    for_each_scale([&, factor = factor]<class P>() {
      INFO(name);
      Inputs<T> inputs(Case{.scale = P::scale, .shape = {1, 150, 150, 1, 1, 64, 64}});
      TensorBuffer<T>* const operands[] = {&inputs.q(), &inputs.k(), &inputs.v(), &inputs.dout()};
      for (int operand = 0; operand < 4; ++operand)
        for (int position = 0; position < 150; ++position)
          for (int d = 0; d < 64; ++d) {
            T& x = operands[operand]->row(position, 0)[d];
            x = from_double<T>(
                std::clamp(cottention::to_double(x) * factor(operand, position, d), -6e4, 6e4));
          }
      check<P>(inputs);
    });
}

#if __has_include(<emulation.hpp>)
TEST_CASE("Wgmma gradients: no schedule of threads and copies changes a bit") {
  const auto check_schedules = []<class P>(const auto& args, int pieces) {
    Gradient first;
    cottention::emulation::for_each_schedule([&](const auto& options) {
      INFO(cottention::emulation::describe(options));
      const Gradient gradient = run_cuda_backward<P>(args, {.split = {pieces}});
      if (first.dq.empty()) first = gradient;
      CHECK(gradient.dq == first.dq);
      CHECK(gradient.dk == first.dk);
      CHECK(gradient.dv == first.dv);
      CHECK(gradient.dscale_logit == first.dscale_logit);
      CHECK(gradient.dinitial_state == first.dinitial_state);
    });
  };
  const Inputs<T> inputs(Case{.shape = {1, 200, 200, 4, 2, 64, 64}, .padding = Padding::middle});
  const auto h = final_h_of(inputs);
  auto args = inputs.backward();
  args.final_h = h.data();
  check_schedules.operator()<Of<Scale::by_key>>(args, 1);
  const Inputs<T> cut(Case{.scale = Scale::by_query, .shape = {1, 520, 520, 1, 1, 64, 64}});
  check_schedules.operator()<Of<Scale::by_query>>(cut.backward(), 2);
}
#endif
