// The CUDA backward pass with head dims and Tilings of every kind, and in pieces; otherwise as backward.cpp.
#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#if __has_include(<emulation.hpp>)
#include <emulation.hpp>

#include "support/host_calls.hpp"
#endif

#include "calls/backward_left_out.hpp"
#include "support/backward_turns.hpp"
#include "support/catch.hpp"
#include "support/cuda_backward.hpp"
#include "support/many_blocks.hpp"
#include "support/mma_sync_alone.hpp"

using cottention::HeadDim, cottention::Mask, cottention::Split;
using namespace support;
using namespace support::backward_turns;

TEST_CASE("Backward: a token whose products nearly vanish is right") {
  // In fp16 they lie where its numbers are far apart.
  for (const double size : {33, 41, 50, 60})
    for (const bool of_values : {false, true}) {
      Inputs<T> inputs(Case{.shape = {1, 1, 1, 1, 1, 64, 64}});
      make_nearly_orthogonal((of_values ? inputs.v() : inputs.q()).row(0, 0),
                             (of_values ? inputs.dout() : inputs.k()).row(0, 0), 64, size);
      for (TensorBuffer<T>* x : {&inputs.v(), &inputs.dout()}) multiply(*x, 0x1p5);
      for (auto& value : inputs.dfinal_state()) value = 0;
      INFO((of_values ? "v and dout" : "q and k") << ", elements of about " << size);
      check_cuda_backward<Square>(inputs);
      const ManyBlocks many_blocks;
      check_cuda_backward<Square>(inputs, {.final_h = Presence::present});
    }
}

TEST_CASE("Backward: every pair of head dims is right") {
  const auto check = []<HeadDim D>(std::int64_t n) {
    Case c{.shape = {1, n, n, 2, 1, D.qk, D.v}, .initial_state = Presence::present};
    check_cuda_backward<Of<D.qk, D.v, Mask::causal>>(c);
    c.shape.heads_kv = 2;
    check_cuda_backward<Of<D.qk, D.v, Mask::causal>>(c, {.final_h = Presence::present});
    check_cuda_backward<Of<D.qk, D.v, Mask::bidirectional>>(c, {.final_h = Presence::present});
    const ManyBlocks many_blocks;
    check_cuda_backward<Of<D.qk, D.v, Mask::causal>>(c, {.final_h = Presence::present});
    check_cuda_backward<Of<D.qk, D.v, Mask::bidirectional>>(c);
  };
  check.operator()<HeadDim{8, 8}>(70);
  check.operator()<HeadDim{16, 16}>(70);
  check.operator()<HeadDim{40, 72}>(40);
  check.operator()<HeadDim{64, 64}>(40);
}

TEST_CASE("Backward: wide heads are right") {
  const auto check = []<HeadDim D>(std::int64_t n) {
    const Case c{.shape = {1, n, n, 1, 1, D.qk, D.v}, .initial_state = Presence::present};
    check_cuda_backward<Of<D.qk, D.v, Mask::causal>>(c);
    check_cuda_backward<Of<D.qk, D.v, Mask::causal>>(c, {.final_h = Presence::present});
    check_cuda_backward<Of<D.qk, D.v, Mask::bidirectional>>(c);
  };
  check.operator()<HeadDim{64, 128}>(20);
  check.operator()<HeadDim{128, 128}>(70);
  check.operator()<HeadDim{256, 256}>(20);
  check.operator()<HeadDim{512, 64}>(20);
}

TEST_CASE("Backward: gradients that seven warps make together are right") {
  if constexpr (has_joint_kernel) {
    const MmaSyncAlone mma_sync_alone;
    const auto check = []<Mask mask>() {
      using P = Of<112, 112, mask>;
      const Case c{.shape = {1, 40, 40, 1, 1, 112, 112}, .initial_state = Presence::present};
#if __has_include(<emulation.hpp>)
      T gradient{};
      cottention::BackwardArguments<T> args{.shape = c.shape};
      args.dq.data = args.dk.data = args.dv.data = &gradient;
      CHECK(cottention::choice<P>(args).fused);
#endif
      check_cuda_backward<P>(c);
      check_cuda_backward<P>(c, {.final_h = Presence::present});
    };
    check.template operator()<Mask::causal>();
    check.template operator()<Mask::bidirectional>();
  }
}

TEST_CASE("Backward: rows of several blocks' columns are right, in pieces too") {
  const auto check = []<HeadDim D>() {
    Case c{
        .shape = {1, 530, 530, 2, 1, 0, 0}, .padding = Padding::middle, .initial_state = Presence::present};
    check_cuda_backward<Of<D.qk, D.v, Mask::causal>>(c, {.split = {2}});
    check_cuda_backward<Of<D.qk, D.v, Mask::bidirectional>>(c, {.split = {2}});
    c.shape.seq_q = c.shape.seq_k = 40;
    check_cuda_backward<Of<D.qk, D.v, Mask::causal>>(c, {.final_h = Presence::present});
  };
  check.operator()<HeadDim{256, 8}>();
  check.operator()<HeadDim{8, 256}>();
}

TEST_CASE("Backward: rows of several blocks' columns are right beside the longest rows there are") {
  // In fp16 rows of k are scaled by the lengths of those of v, from what no block has in its tiles.
  if constexpr (narrow) {
    using P = Of<32, 1024, Mask::causal>;
    Case c{.shape = {1, 20, 20, 1, 1, 32, 1024}};
    c.mask = P::mask;
    c.scale = P::scale;
    Inputs<T> inputs(c);
    for (std::int64_t row = 0; row < c.shape.seq_k; ++row)
      for (std::int64_t d = 0; d < c.shape.dim_v; ++d) {
        T& v = inputs.v().row(row, 0)[d];
        v = from_double<T>(std::copysign(32768.0, cottention::to_double(v)));
        if (d < c.shape.dim_qk) inputs.k().row(row, 0)[d] = from_double<T>(d == row % 7 ? 64.0 : 0.0);
      }
    multiply(inputs.dout(), 0x1p-6);
    check_cuda_backward<P>(inputs);
  }
}

TEST_CASE("Backward: a tiling of the caller's gives right results") {
  using cottention::Tiling;
  const auto check = []<Tiling tiling>() {
    const Case c{.shape = {1, 70, 70, 2, 1, 0, 0}, .padding = Padding::middle};
    check_cuda_backward<Square, tiling>(c);
    check_cuda_backward<SquareBidirectional, tiling>(c, {.final_h = Presence::present});
  };
  check.operator()<Tiling{.chunk = 16, .warps = 2, .stages = 3, .columns = 32}>();
  check.operator()<Tiling{.chunk = 32, .warps = 4, .stages = 1, .columns = 64}>();
}

TEST_CASE("Backward: sequences in pieces are right, however many") {
  const Case plain{
      .shape = {1, 800, 800, 1, 1, 0, 0}, .padding = Padding::middle, .initial_state = Presence::present};
  const Case packed{.shape = {.heads_q = 1, .heads_kv = 1},
                    .lengths_q = {3, 0, 530, 300},
                    .initial_state = Presence::present};
  for (const int pieces : {0, 1, 3}) {
    check_cuda_backward<Narrow>(plain, {.split = {pieces}});
    check_cuda_backward<NarrowBidirectional>(plain, {.split = {pieces}, .final_h = Presence::present});
    check_cuda_backward<Narrow>(packed, {.split = {pieces}, .final_h = Presence::present});
  }
  check_cuda_backward<NarrowBidirectional>(
      Case{.shape = {1, 300, 800, 2, 1, 0, 0}, .padding = Padding::right}, {.split = {3}});
}

#if __has_include(<emulation.hpp>)
TEST_CASE("Backward: tensor cores that cut sums off give right results") {
  const auto check = []<HeadDim D>(std::int64_t n) {
    for (const Rows rows : {Rows::normal, Rows::correlated}) {
      const Case c{.shape = {1, n, n, 1, 1, D.qk, D.v}, .rows = rows};
      check_cuda_backward<Of<D.qk, D.v, Mask::causal>>(c, {.final_h = Presence::present});
      check_cuda_backward<Of<D.qk, D.v, Mask::bidirectional>>(c);
    }
  };
  cottention::emulation::for_each_tensor_cores([&](const auto& cores) {
    INFO("blocks of " << cores.terms);
    check.template operator()<HeadDim{64, 64}>(130);
    check.template operator()<HeadDim{128, 128}>(40);
    check.template operator()<HeadDim{256, 256}>(20);
  });
}

TEST_CASE("Backward: devices with little shared memory are right") {
  const RestoreOptions restore;
  cottention::emulation::options().shared_bytes_per_block = 99 * 1024;  // compute capability 8.6
  const auto check = []<HeadDim D>() {
    const Case c{.shape = {1, 20, 20, 1, 1, D.qk, D.v}};
    check_cuda_backward<Of<D.qk, D.v, Mask::causal>>(c);
    check_cuda_backward<Of<D.qk, D.v, Mask::bidirectional>>(c, {.final_h = Presence::present});
  };
  check.operator()<HeadDim{64, 64}>();
  check.operator()<HeadDim{128, 128}>();
  check.operator()<HeadDim{256, 256}>();
}

TEST_CASE("Backward: no schedule of threads and copies changes a bit") {
  const auto check = []<class P>(const Case& c, Presence final_h, Split split) {
    Inputs<T> inputs(c);
    INFO(describe<T>(c) << ", pieces " << split.pieces);
    auto args = inputs.backward();
    const auto final_state = final_h_of(inputs);
    if (final_h == Presence::present) args.final_h = final_state.data();
    const Gradient expected = run_cuda_backward<P>(args, {.split = split});
    check_gradient(inputs, expected);
    cottention::emulation::for_each_schedule([&](const cottention::emulation::Options& options) {
      INFO(cottention::emulation::describe(options));
      CHECK(same_bits(run_cuda_backward<P>(args, {.split = split}), expected));
    });
  };
  Case c{.shape = {1, 70, 70, 2, 1, 8, 8}, .padding = Padding::middle, .initial_state = Presence::present};
  check.template operator()<Narrow>(c, Presence::absent, {1});
  c.shape.heads_kv = 2;
  check.template operator()<Narrow>(c, Presence::present, {1});
  if constexpr (has_joint_kernel) {
    c.shape.dim_qk = c.shape.dim_v = 64;
    for (const Mask mask : {Mask::causal, Mask::bidirectional}) {
      c.mask = mask;
      for (const bool many : {false, true}) {
        std::optional<ManyBlocks> many_blocks;
        if (many) many_blocks.emplace();
        if (mask == Mask::causal)
          check.template operator()<Square>(c, Presence::present, {1});
        else
          check.template operator()<SquareBidirectional>(c, Presence::present, {1});
      }
    }
    c.shape.dim_qk = c.shape.dim_v = 8;
  }
  c.shape.heads_kv = 1;
  c.mask = Mask::bidirectional;
  check.template operator()<NarrowBidirectional>(c, Presence::present, {1});
  c.shape.seq_q = c.shape.seq_k = 520;
  check.template operator()<NarrowBidirectional>(c, Presence::absent, {2});
  c.mask = Mask::causal;
  check.template operator()<Narrow>(c, Presence::absent, {2});
}
#endif
