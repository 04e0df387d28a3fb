// What the CUDA forward promises about bits and about memory that changes from call to call, and the tilings
// and the pieces that it takes.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#if __has_include(<emulation.hpp>)
#include <emulation.hpp>

#include "support/host_calls.hpp"
#endif

#include <cottention/owned_workspace.cuh>

#include "support/catch.hpp"
#include "support/cuda_forward.hpp"
#include "support/many_blocks.hpp"
#include "support/part.hpp"
#include "support/pool_cases.hpp"

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

TEST_CASE("The same arguments serve fewer sequences and tokens, as in a captured graph") {
  Case full{.shape = {.heads_q = 2, .heads_kv = 1, .dim_qk = 16, .dim_v = 24}, .lengths_q = {40, 600, 9}};
  Case fewer = full;
  fewer.lengths_q = {370, 0, 0}, fewer.trailing_q = fewer.trailing_k = 279, fewer.seed = 2;
  Inputs<float> of_full(full), of_fewer(fewer);
  REQUIRE(of_full.shape().seq_q == of_fewer.shape().seq_q);
  Pool<float> pool(of_full.shape(), 6);
  TensorBuffer<float> o(Layout::bshd, 1, 649, 2, 24);
  const std::vector<std::int32_t> none(3, -1);
  auto args = of_full.forward();
  args.o = o.view();
  args.final_state = pool.view();
  args.initial_state = {args.final_state.h, args.final_state.count};
  args.pool_slots = 6;
  args.read_slot = args.write_slot = none.data();
  Mirror mirror;
  const auto device_args = mirror.forward(args);  // by which all calls below are made
  cottention::DeviceWorkspace workspace;
  const auto upload = [](const auto* to, const auto* from, std::int64_t count) {
    REQUIRE(cudaMemcpy(const_cast<void*>(static_cast<const void*>(to)), from,
                       static_cast<std::size_t>(count) * sizeof *from,
                       cudaMemcpyHostToDevice) == cudaSuccess);
  };
  const auto run = [&](Inputs<float>& inputs, const std::vector<std::int32_t>& read,
                       const std::vector<std::int32_t>& write) {
    auto host = inputs.forward();
    upload(device_args.q.data, host.q.data, 649 * 2 * 16);
    upload(device_args.k.data, host.k.data, 649 * 16);
    upload(device_args.v.data, host.v.data, 649 * 24);
    upload(device_args.scale_logit.data, host.scale_logit.data, 1);
    upload(device_args.cu_seqlens_q.int64(), host.cu_seqlens_q.int64(), 4);
    upload(device_args.cu_seqlens_k.int64(), host.cu_seqlens_k.int64(), 4);
    upload(device_args.read_slot, read.data(), 3);
    upload(device_args.write_slot, write.data(), 3);
    Pool<float> before(inputs.shape(), 6);
    before.assign(pool);
    host.initial_state = std::as_const(before).of(0);
    host.read_slot = read.data();
    const Output expected = expected_output(inputs.description(), host);
    REQUIRE(cottention::forward<P>(device_args, workspace, nullptr, {2}).ok());
    mirror.download();
    CHECK(relative_error(o.values(), expected.o) <= bounds<float>.forward);
    const std::vector<double> rows = o.values();
    CHECK(
        std::all_of(rows.begin() + inputs.start_q(3) * 2 * 24, rows.end(), [](double x) { return x == 0; }));
    for (std::int64_t slot = 0; slot < 6; ++slot) {
      const auto b = std::find(write.begin(), write.end(), slot) - write.begin();
      if (b == 3) {
        CHECK(same_bits(pool.h(slot), before.h(slot)));
        CHECK(pool.count(slot) == before.count(slot));
      } else {
        CHECK(relative_error(pool.h(slot), rows_of(expected.h, {b, b + 1}, 16 * 24)) <= bounds<float>.state);
        CHECK(pool.count(slot) == expected.count[static_cast<std::size_t>(b)]);
      }
    }
  };
  run(of_full, {0, -1, 2}, {3, 4, 2});
  run(of_fewer, {4, -1, -1}, {4, -1, -1});
  run(of_full, {4, 3, 1}, {4, 0, 1});
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
