// What forward's kernels move, counted by the emulator, and that no schedule of threads and copies changes a
// bit.
#include <cstdint>

#include <emulation.hpp>

#include "support/catch.hpp"
#include "support/conflicts.hpp"
#include "support/cuda_forward.hpp"

using cottention::HeadDim, cottention::Mask, cottention::Problem, cottention::Scale, cottention::Split;
using namespace support;

namespace {

/// Global bytes of a forward call over those of reading q, k and v and writing o once.
template <cottention::AnyProblem P, cottention::Tiling tiling = cottention::tuning::tuned_forward<P>>
double traffic(const cottention::Shape& shape, Split split) {
  using T = typename P::element;
  Case c{.mask = P::mask, .scale = P::scale, .shape = shape};
  const Inputs<T> inputs(c);
  cottention::emulation::clear_statistics();
  (void)run_cuda_forward<P, tiling>(inputs.forward(), {.split = split, .final_state = FinalState::absent});
  const auto counted = cottention::emulation::statistics();
  const std::int64_t q_and_o = shape.seq_q * shape.heads_q, k_and_v = shape.seq_k * shape.heads_kv;
  const double once = static_cast<double>(shape.batch * (q_and_o + k_and_v) * (shape.dim_qk + shape.dim_v)) *
                      static_cast<double>(sizeof(T));
  return static_cast<double>(counted.global_bytes_read + counted.global_bytes_written) / once;
}

template <class T, int d, Mask mask>
using P = Problem<T, HeadDim{d, d}, mask, Scale::by_key>;

template <cottention::AnyProblem P>
constexpr cottention::Tiling few_blocks = cottention::tuning::low_occupancy_forward<P>;

}  // namespace

TEMPLATE_TEST_CASE("A block per head moves each tensor once", "", double, float, cottention::half,
                   cottention::bfloat16) {
  const cottention::Shape shape = support::Extents{1, 2048, 2048, 2, 2, 64, 64};
  CHECK(traffic<P<TestType, 64, Mask::causal>>(shape, {1}) <= 1.05);
  CHECK(traffic<P<TestType, 64, Mask::bidirectional>>(shape, {1}) <= 1.05);
}

TEST_CASE("The tiling for few blocks moves each tensor once, without bank conflicts") {
  using Causal = P<cottention::bfloat16, 64, Mask::causal>;
  using Bidirectional = P<cottention::bfloat16, 64, Mask::bidirectional>;
  static_assert(few_blocks<Causal> != cottention::tuning::tuned_forward<Causal>);
  const cottention::Shape shape = support::Extents{1, 2048, 2048, 2, 2, 64, 64};
  CHECK(traffic<Causal, few_blocks<Causal>>(shape, {1}) <= 1.05);
  check_conflicts();
  CHECK(traffic<Bidirectional, few_blocks<Bidirectional>>(shape, {1}) <= 1.05);
  check_conflicts();
}

TEST_CASE("The wgmma engine moves each tensor once, whole and in groups of heads") {
  using cottention::recurrence::Output;
  using Causal = P<cottention::bfloat16, 64, Mask::causal>;
  using Bidirectional = P<cottention::half, 128, Mask::bidirectional>;
  constexpr auto causal = cottention::tuning::wgmma_recurrence<cottention::kernel::Roles<Causal, Output::o>>;
  constexpr auto bidirectional =
      cottention::tuning::wgmma_recurrence<cottention::kernel::Roles<Bidirectional, Output::o>>;
  const auto check = [](double moved) {
    CHECK(moved >= 0.99);  // copies of TMA are counted
    CHECK(moved <= 1.05);
  };
  check(traffic<Causal, causal>(support::Extents{1, 1024, 1024, 2, 2, 64, 64}, {1}));
  check(traffic<Causal, causal>(support::Extents{1, 1024, 1024, 4, 1, 64, 64}, {1}));
  check(traffic<Bidirectional, bidirectional>(support::Extents{1, 1024, 1024, 1, 1, 128, 128}, {1}));
}

TEST_CASE("Grouped heads read their keys and values once") {
  const cottention::Shape shape = support::Extents{1, 2048, 2048, 4, 1, 64, 64};
  CHECK(traffic<P<cottention::bfloat16, 64, Mask::causal>>(shape, {1}) <= 1.05);
  CHECK(traffic<P<cottention::bfloat16, 64, Mask::bidirectional>>(shape, {1}) <= 1.05);
}

TEST_CASE("Split sequences read keys and values twice and little besides") {
  const cottention::Shape shape = support::Extents{1, 16'384, 16'384, 1, 1, 64, 64};
  CHECK(traffic<P<cottention::bfloat16, 64, Mask::causal>>(shape, {8}) <= 1.55);
  CHECK(traffic<P<cottention::bfloat16, 64, Mask::bidirectional>>(shape, {8}) <= 1.05);
}

TEMPLATE_TEST_CASE("Shared memory is read and written without bank conflicts", "", double, float,
                   cottention::half, cottention::bfloat16) {
  (void)traffic<P<TestType, 64, Mask::causal>>({1, 256, 256, 1, 1, 64, 64}, {1});
  check_conflicts();
}

TEMPLATE_TEST_CASE("No schedule of threads and copies changes a bit of forward", "", double, float,
                   cottention::half, cottention::bfloat16) {
  const auto check =
      []<class Q, cottention::Tiling tiling = cottention::tuning::tuned_forward<Q>>(int pieces) {
    const std::int64_t n = pieces == 1 ? 200 : 330;  // three chunks of 64 and more, of each piece
    Case c{.mask = Q::mask, .scale = Q::scale, .shape = {1, n, n, 2, 1, Q::head_dim.qk, Q::head_dim.v}};
    c.padding = Padding::middle;
    c.initial_state = Presence::present;
    Inputs<TestType> inputs(c);
    const Split split{pieces};
    const Output expected = run_cuda_forward<Q, tiling>(inputs.forward(), {.split = split});
    check_output(inputs, expected);
    cottention::emulation::for_each_schedule([&](const cottention::emulation::Options& options) {
      INFO(cottention::emulation::describe(options));
      const Output got = run_cuda_forward<Q, tiling>(inputs.forward(), {.split = split});
      CHECK(got.o == expected.o);
      CHECK(got.h == expected.h);
      CHECK(got.count == expected.count);
    });
  };
  using Q = P<TestType, 64, Mask::causal>;
  for (const int pieces : {1, 2}) {
    check.template operator()<Q>(pieces);
    check.template operator()<P<TestType, 64, Mask::bidirectional>>(pieces);
  }
  constexpr cottention::Tiling few = cottention::tuning::low_occupancy_forward<Q>;
  if constexpr (few != cottention::tuning::tuned_forward<Q>) check.template operator()<Q, few>(1);
  check.template operator()<Problem<TestType, HeadDim{256, 40}, Mask::causal, Scale::by_query>>(1);
}
