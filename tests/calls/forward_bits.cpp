// What the CUDA forward promises about bits, and the tilings and the pieces that it takes.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#if __has_include(<emulation.hpp>)
#include <emulation.hpp>

#include "support/host_calls.hpp"
#endif

#include "support/catch.hpp"
#include "support/cuda_forward.hpp"
#include "support/many_blocks.hpp"
#include "support/part.hpp"

using cottention::HeadDim, cottention::Mask, cottention::Plan, cottention::Problem, cottention::Scale,
    cottention::bfloat16;
using namespace support;

namespace {

using P = Problem<float, HeadDim{16, 24}, Mask::causal, Scale::by_key>;
using Everything = Problem<float, HeadDim{16, 24}, Mask::bidirectional, Scale::by_key>;

template <class Q>
Output run_part(const Inputs<float>& inputs, std::int64_t b, Plan plan) {
  const cottention::Shape& s = inputs.shape();
  cottention::ForwardArguments<float> args = part(inputs.forward(), b, {0, s.seq_q}, {0, s.seq_k});
  args.plan = plan;
  return run_cuda_forward<Q>(args);
}

}  // namespace

TEST_CASE("Two calls give the same bits") {
  const Inputs<float> inputs(Case{.shape = {1, 1100, 1100, 1, 1, 16, 24}});
  for (const int pieces : {0, 1, 3}) {
    const Output first = run_cuda_forward<P>(inputs.forward(), {.split = {pieces}});
    const Output second = run_cuda_forward<P>(inputs.forward(), {.split = {pieces}});
    CHECK(first.o == second.o);
    CHECK(first.h == second.h);
  }
}

TEST_CASE("Under the batch-invariant plan a sequence alone has the bits that it has in a batch") {
  const auto check = []<class Q>() {
    Case c{.mask = Q::mask, .shape = {3, 1100, 1100, 2, 1, 16, 24}, .initial_state = Presence::present};
    const Inputs<float> inputs(c);
    auto args = inputs.forward();
    args.plan = Plan::batch_invariant;
    const Output together = run_cuda_forward<Q>(args);
    const auto slice = [](const std::vector<double>& x, std::int64_t b) {
      const auto n = static_cast<std::ptrdiff_t>(x.size() / 3);
      return std::vector<double>(x.begin() + b * n, x.begin() + (b + 1) * n);
    };
    for (std::int64_t b = 0; b < 3; ++b) {
      const Output alone = run_part<Q>(inputs, b, Plan::batch_invariant);
      CHECK(alone.o == slice(together.o, b));
      CHECK(alone.h == slice(together.h, b));
    }
  };
  check.operator()<P>();
  check.operator()<Everything>();
}

TEST_CASE("The library's tiling is right, whatever the number of blocks") {
  using Q = Problem<bfloat16, HeadDim{64, 64}, Mask::causal, Scale::by_key>;
  Inputs<bfloat16> inputs(Case{.shape = {1, 300, 300, 2, 2, 64, 64}});
  const auto check = [&inputs](Plan plan) {
    auto args = inputs.forward();
    args.plan = plan;
    check_output(inputs, run_cuda_forward_with<Q>(args));
  };
  check(Plan::automatic);
  const ManyBlocks many_blocks;
  check(Plan::automatic);
}

TEST_CASE("The library's tilings are right for one, two and three tokens in bf16") {
  using Q = Problem<bfloat16, HeadDim{64, 64}, Mask::causal, Scale::by_key>;
  const auto check = [] {
    for (std::int64_t n = 1; n <= 3; ++n)
      for (std::uint64_t seed = 1; seed <= 20; ++seed) {
        Inputs<bfloat16> inputs(Case{.shape = {1, n, n, 1, 1, 64, 64}, .seed = seed});
        INFO(describe<bfloat16>(inputs.description()));
        check_output(inputs, run_cuda_forward_with<Q>(inputs.forward()));
      }
  };
  check();
  const ManyBlocks many_blocks;
  check();
}

TEST_CASE("Under the batch-invariant plan a packed sequence has the bits that it has alone") {
  const auto check = []<class Q>() {
    using T = typename Q::element;
    const Case c{.mask = Q::mask,
                 .shape = {.heads_q = 2, .heads_kv = 1, .dim_qk = 16, .dim_v = 24},
                 .lengths_q = {300, 1000, 5, 1700, 0, 512},
                 .initial_state = Presence::present};
    const Inputs<T> inputs(c);
    auto args = inputs.forward();
    args.plan = Plan::batch_invariant;
    const Output together = run_cuda_forward<Q>(args);
    for (std::int64_t b = 0; b < inputs.shape().batch; ++b) {
      const Output alone = run_cuda_forward<Q>(sequence(args, b)), inside = sequence_of(together, inputs, b);
      INFO(describe<T>(c) << ", sequence " << b);
      CHECK(alone.o == inside.o);
      CHECK(alone.h == inside.h);
    }
  };
  check.operator()<P>();
  check.operator()<Everything>();
  check.operator()<Problem<bfloat16, HeadDim{16, 24}, Mask::causal, Scale::by_key>>();
}

TEST_CASE(
    "Under the batch-invariant plan a sequence has its bits beside one that is too long to stay whole") {
  // In fp32 no piece has over 512 chunks, here of 8.
  static constexpr cottention::Tiling short_chunks{.chunk = 8, .warps = 1, .stages = 1, .columns = 16};
  const auto check = []<Mask mask>() {
    using Q = Problem<float, HeadDim{8, 8}, mask, Scale::none>;
    const Case c{.mask = mask,
                 .scale = Scale::none,
                 .shape = {.heads_q = 1, .heads_kv = 1, .dim_qk = 8, .dim_v = 8},
                 .lengths_q = {1200, 9000}};
    const Inputs<float> inputs(c);
    auto args = inputs.forward();
    args.plan = Plan::batch_invariant;
    for (const int pieces : {0, 1, 2}) {
      const Output together = run_cuda_forward<Q, short_chunks>(args, {.split = {pieces}});
      for (std::int64_t b = 0; b < 2; ++b) {
        const Output alone = run_cuda_forward<Q, short_chunks>(sequence(args, b), {.split = {pieces}}),
                     inside = sequence_of(together, inputs, b);
        INFO(describe<float>(c) << ", sequence " << b << ", pieces " << pieces);
        CHECK(alone.o == inside.o);
        CHECK(alone.h == inside.h);
      }
    }
  };
  check.operator()<Mask::causal>();
  check.operator()<Mask::bidirectional>();
}

TEST_CASE("An empty sequence returns its initial state bit for bit, in a batch that is cut too") {
  for (const Mask mask : {Mask::causal, Mask::bidirectional}) {
    const Case c{.mask = mask,
                 .shape = {.heads_q = 1, .heads_kv = 1, .dim_qk = 16, .dim_v = 24},
                 .lengths_q = {0, 600},
                 .initial_state = Presence::present};
    Inputs<float> inputs(c);
    auto args = inputs.forward();
    std::vector<float> zeros(2 * 16 * 24, -0.0f);
    args.initial_state.h = zeros.data();
    for (const int pieces : {1, 2}) {
      INFO(describe<float>(c) << ", pieces " << pieces);
      const Output got = mask == Mask::causal ? run_cuda_forward<P>(args, {.split = {pieces}})
                                              : run_cuda_forward<Everything>(args, {.split = {pieces}});
      CHECK(std::all_of(got.h.begin(), got.h.begin() + 16 * 24, [](double h) { return std::signbit(h); }));
    }
  }
}

#if __has_include(<emulation.hpp>)
TEST_CASE("Few blocks get a tiling of their own, but not under the batch-invariant plan") {
  using Q = Problem<bfloat16, HeadDim{64, 64}, Mask::causal, Scale::by_key>;
  constexpr cottention::Tiling few = cottention::tuning::low_occupancy_forward<Q>,
                               many = cottention::tuning::tuned_forward<Q>;
  const Inputs<bfloat16> inputs(Case{.shape = {1, 300, 300, 2, 2, 64, 64}});
  const RestoreOptions restore;
  cottention::emulation::options().compute_capability = 80;  // the wgmma engine has one tiling
  const auto with = [&inputs](Plan plan) {
    auto args = inputs.forward();
    args.plan = plan;
    return args;
  };
  const auto kernel_of = [&]<cottention::Tiling... tiling>(Plan plan) {
    cottention::emulation::clear_statistics();
    (void)run_cuda_forward_with<Q, tiling...>(with(plan), {.final_state = FinalState::absent});
    return cottention::emulation::launches().front().kernel;
  };
  const std::string for_few = kernel_of.operator()<few>(Plan::automatic);
  const std::string for_many = kernel_of.operator()<many>(Plan::automatic);
  CHECK(for_few != for_many);
  const auto check = [&](Plan plan, cottention::Tiling tiling) {
    CHECK(cottention::choice<Q>(with(plan)).o.tiling == tiling);
    CHECK(kernel_of.operator()<>(plan) == (tiling == few ? for_few : for_many));
  };
  check(Plan::automatic, few);
  check(Plan::batch_invariant, many);
  const ManyBlocks many_blocks;
  check(Plan::automatic, many);
  check(Plan::batch_invariant, many);
}

TEST_CASE("Pieces fill the places for two blocks on each multiprocessor, and no more") {
  const RestoreOptions restore;
  const auto pieces = [](std::int64_t heads, int multiprocessors, std::int64_t length) {
    using Q = Problem<bfloat16, HeadDim{64, 64}, Mask::causal, Scale::none>;
    cottention::emulation::options().multiprocessors = multiprocessors;
    cottention::ForwardArguments<bfloat16> args;
    args.shape = Extents{1, length, length, heads, heads, 64, 64};
    return cottention::choice<Q>(args).o.pieces;
  };
  CHECK(pieces(16, 132, 131072) == 16);  // 256 blocks on 264 places
  CHECK(pieces(1, 132, 131072) == 64);
  CHECK(pieces(5, 132, 131072) == 52);
  CHECK(pieces(16, 108, 131072) == 13);
  CHECK(pieces(16, 132, 1100) == 4);  // of 256 tokens at least
  CHECK(pieces(118, 132, 131072) == 2);
  CHECK(pieces(119, 132, 131072) == 1);
}

TEST_CASE("A state is updated in place by a sequence in pieces, whatever the order of blocks") {
  const Case c{.shape = {1, 1100, 1100, 1, 1, 16, 24}, .initial_state = Presence::present};
  const Inputs<float> inputs(c);
  const Output expected = run_cuda_forward<P>(inputs.forward(), {.split = {4}});
  cottention::emulation::for_each_schedule([&](const cottention::emulation::Options& options) {
    INFO(cottention::emulation::describe(options));
    const Output got =
        run_cuda_forward<P>(inputs.forward(), {.split = {4}, .final_state = FinalState::in_place});
    CHECK(got.o == expected.o);
    CHECK(got.h == expected.h);
  });
}
#endif
