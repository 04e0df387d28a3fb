// The CUDA backward pass against the reference: in the emulator, or on a GPU. Compiled once for each element
// type, COTTENTION_TEST_ELEMENT.
//
// Products with many tokens take the emulator long, so lengths, masks, scales, layouts and the rest are tried
// in turn rather than all with all.
#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#if __has_include(<emulation.hpp>)
#include <emulation.hpp>

#include "support/host_calls.hpp"
#endif

#include "support/backward_turns.hpp"
#include "support/catch.hpp"
#include "support/cuda_backward.hpp"
#include "support/left_out.hpp"
#include "support/many_blocks.hpp"

using cottention::HeadDim, cottention::Mask, cottention::Split;
using namespace support;

namespace {

/// Problems of which some case below is cut into pieces.
template <cottention::AnyProblem P>
constexpr bool is_cut =
    P::head_dim == HeadDim{8, 8} || P::head_dim == HeadDim{8, 256} || P::head_dim == HeadDim{256, 8};
constexpr bool is_of_keys(cottention::recurrence::Output output) {
  return output == cottention::recurrence::Output::dk || output == cottention::recurrence::Output::dv;
}

}  // namespace

// What none of the calls below launches. Of the wgmma engine one kernel makes dk and dv.
template <cottention::AnyProblem P, cottention::recurrence::Output output, cottention::Tiling tiling>
constexpr bool
    cottention::device::is_left_out<cottention::sm80::Reduce<cottention::kernel::Roles<P, output>, tiling>> =
        !is_cut<P>;
template <cottention::AnyProblem P, cottention::recurrence::Output output, cottention::Tiling tiling>
constexpr bool
    cottention::device::is_left_out<cottention::sm90::Reduce<cottention::kernel::Roles<P, output>, tiling>> =
        output != cottention::recurrence::Output::o &&
        (P::mask == Mask::causal || output != cottention::recurrence::Output::dk);
template <cottention::AnyProblem P, cottention::recurrence::Output output, cottention::Tiling tiling>
constexpr bool
    cottention::device::is_left_out<cottention::sm90::Walk<cottention::kernel::Roles<P, output>, tiling>> =
        is_of_keys(output);
template <cottention::AnyProblem P, cottention::recurrence::Output output, cottention::Tiling tiling>
constexpr bool
    cottention::device::is_left_out<cottention::sm90::Apply<cottention::kernel::Roles<P, output>, tiling>> =
        is_of_keys(output);
template <cottention::AnyProblem P, cottention::recurrence::Output output, cottention::Tiling tiling>
constexpr bool
    cottention::device::is_left_out<cottention::sm80::Walk<cottention::kernel::Roles<P, output>, tiling>> =
        P::head_dim == HeadDim{64, 128} && sizeof(typename P::element) == 2;
template <cottention::AnyProblem P, cottention::recurrence::Output output, cottention::Tiling tiling>
constexpr bool
    cottention::device::is_left_out<cottention::sm80::Apply<cottention::kernel::Roles<P, output>, tiling>> =
        P::head_dim == HeadDim{64, 128} && sizeof(typename P::element) == 2;

using namespace support::backward_turns;

TEST_CASE("Backward: every length is right") {
  std::vector<Case> some;
  for (const std::int64_t n : {0, 1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129})
    some.push_back(of_length(n));
  check_in_turn(some);
}

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
  if constexpr (has_joint_kernel) check.operator()<HeadDim{112, 112}>(40);  // seven warps
  check.operator()<HeadDim{256, 256}>(20);
  check.operator()<HeadDim{512, 64}>(20);
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
#endif

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

TEST_CASE("Backward: masked positions get exactly 0 and add nothing") {
  std::vector<Case> some;
  for (const Padding padding : {Padding::left, Padding::right, Padding::middle, Padding::unrelated})
    for (const std::int64_t n : {1, 40})
      some.push_back(
          {.shape = {3, n, n, 2, 1, 0, 0}, .padding = padding, .initial_state = Presence::present});
  check_in_turn(some);
}

TEST_CASE("Backward: packed sequences are right, empty ones included") {
  const Extents heads{.heads_q = 2, .heads_kv = 1};
  check_in_turn(
      {{.shape = heads,
        .lengths_q = {33, 0, 1, 64, 0},
        .offset_type = OffsetType::int32,
        .initial_state = Presence::present},
       {.shape = heads, .lengths_q = {0, 1, 1, 30}, .padding = Padding::middle, .layout = Layout::bhsd},
       {.shape = heads, .lengths_q = {5, 16, 17, 0}, .layout = Layout::aligned_gaps},
       {.shape = heads,
        .lengths_q = {0, 5, 20, 3, 0},
        .lengths_k = {7, 0, 40, 33, 0},
        .initial_state = Presence::present},
       {.shape = heads, .lengths_q = {0, 0}, .initial_state = Presence::present},
       {.shape = heads,
        .lengths_q = {5, 20},
        .trailing_q = 37,
        .trailing_k = 37,
        .offset_type = OffsetType::int32,
        .padding = Padding::middle},
       {.shape = heads, .lengths_q = {0, 20}, .lengths_k = {7, 0}, .trailing_q = 3, .trailing_k = 35}});
}

TEST_CASE("Backward: strided tensors are right and gaps stay untouched") {
  for (const Layout of_outputs : {Layout::bhsd, Layout::aligned_gaps}) {
    std::vector<Case> some;
    for (const Layout of_inputs : {Layout::bhsd, Layout::aligned_gaps})
      some.push_back({.shape = {2, 21, 21, 4, 2, 0, 0}, .layout = of_inputs});
    check_in_turn(some, {.layout = of_outputs});
  }
}

TEST_CASE("Backward: grouped heads are right") {
  std::vector<Case> some;
  constexpr std::int64_t heads[][2] = {{3, 3}, {4, 1}, {6, 2}};
  for (const auto& [heads_q, heads_kv] : heads)
    some.push_back({.shape = {1, 35, 35, heads_q, heads_kv, 0, 0}, .initial_state = Presence::present});
  check_in_turn(some);
}

TEST_CASE("Backward: gradients pass through states") {
  std::vector<Case> some;
  for (const std::int64_t n : {0, 1, 40})
    some.push_back({.shape = {2, n, n, 2, 1, 0, 0}, .initial_state = Presence::present});
  check_in_turn(some);
}

TEST_CASE("Backward: cross-attention is right") {
  constexpr std::int64_t lengths[][2] = {{1, 40}, {40, 1}, {33, 70}, {70, 20}, {0, 20}, {20, 0}};
  std::vector<Case> some;
  for (const auto& [seq_q, seq_k] : lengths)
    some.push_back({.shape = {1, seq_q, seq_k, 2, 1, 0, 0},
                    .padding = seq_k % 20 == 0 ? Padding::right : Padding::none,
                    .initial_state = Presence::present});
  check_in_turn(some);
}

TEST_CASE("Backward: tiny, huge, zero and correlated rows are right") {
  std::vector<Case> some;
  for (const Rows rows : {Rows::correlated, Rows::small, Rows::tiny, Rows::huge, Rows::mixed})
    some.push_back({.shape = {1, 40, 40, 1, 1, 0, 0},
                    .padding = rows == Rows::small ? Padding::middle : Padding::none,
                    .rows = rows});
  check_in_turn(some);
}

TEST_CASE("Backward: rows of the least and greatest lengths are right") {
  // v and dout are such that the gradients are within T's range, too. In fp16, rows of subnormal numbers and
  // of numbers up to 60,000.
  struct End {
    double row, v, dout;
  };
  constexpr End least = narrow ? End{0x1p-21, 1, 0x1p-9} : End{1e-20, 1, 1},
                greatest = narrow ? End{20'000, 0x1p8, 0x1p8} : End{1e10, 1, 1};
  for (const End& end : {least, greatest})
    for_each_in_turn({of_length(40)}, [&]<class P>(const Case& c, Presence final_h) {
      Inputs<T> inputs(c);
      INFO("rows of about " << end.row);
      multiply(inputs.q(), end.row);
      multiply(inputs.k(), end.row);
      multiply(inputs.v(), end.v);
      multiply(inputs.dout(), end.dout);
      for (auto& value : inputs.dfinal_state()) value *= static_cast<cottention::Accumulate<T>>(end.dout);
      check_cuda_backward<P>(inputs, {.final_h = final_h});
    });
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

TEST_CASE("Backward: gradients of rows of zeros are those of norm(x) = x / epsilon") {
  for_each_in_turn({of_length(40), of_length(33)}, []<class P>(const Case& c, Presence final_h) {
    Inputs<T> inputs(c);
    const std::int64_t n = c.shape.seq_q;
    const double others =
        std::same_as<T, cottention::half> ? 0 : 1;  // there they are past fp16's range, or 0
    const auto fill = [](TensorBuffer<T>& x, std::int64_t position, double factor) {
      for (std::int64_t d = 0; d < x.dim(); ++d)
        x.row(position, 0)[d] = from_double<T>(factor * cottention::to_double(x.row(position, 0)[d]));
    };
    for (const std::int64_t position : {std::int64_t{0}, std::int64_t{5}, n - 1}) {
      fill(inputs.q(), position, 0);
      fill(inputs.dout(), position, others);
      fill(inputs.k(), position == 5 ? 6 : position, 0);
      fill(inputs.v(), position == 5 ? 6 : position, others);
    }
    INFO(describe<T>(c));
    auto args = inputs.backward();
    const auto final_state = final_h_of(inputs);
    if (final_h == Presence::present) args.final_h = final_state.data();
    Gradient got = run_cuda_backward<P>(args), expected = gradient(c.mask, c.scale, args);
    for (Gradient* x : {&got, &expected}) {
      level(x->dq, norms_of(inputs.q()), 1);
      level(x->dk, norms_of(inputs.k()), 1);
    }
    check_gradient(inputs, got, expected);
  });
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

TEST_CASE("Backward: what late tokens add does not blur the gradients of early ones") {
  // A kernel that has the sum over all tokens and takes those after a query out of it is left with the
  // rounding of the greatest terms. The lengths change between chunks of 64.
  constexpr std::int64_t early = 64;
  constexpr double ratio = std::same_as<T, cottention::half> ? 0x1p8 : 0x1p12;
  for_each_in_turn({of_length(130), of_length(80), of_length(100)},
                   [&]<class P>(const Case& c, Presence final_h) {
                     if (P::mask == Mask::bidirectional) return;
                     Inputs<T> inputs(c);
                     for (std::int64_t position = 0; position < c.shape.seq_q; ++position)
                       for (TensorBuffer<T>* x : {&inputs.v(), &inputs.dout()}) {
                         const double factor = (position >= early) == (x == &inputs.v()) ? ratio : 1 / ratio;
                         for (std::int64_t d = 0; d < x->dim(); ++d) {
                           T& value = x->row(position, 0)[d];
                           value = from_double<T>(factor * cottention::to_double(value));
                         }
                       }
                     check_cuda_backward<P>(inputs, {.final_h = final_h});
                   });
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

TEST_CASE("Backward: the final state that forward wrote serves") {
  for_each_in_turn({of_length(100)}, []<class P>(Case c, Presence) {
    c.initial_state = Presence::present;
    Inputs<T> inputs(c);
    INFO(describe<T>(c));
    std::vector<cottention::Accumulate<T>> final_h;
    for (const double value : run_cuda_forward<P>(inputs.forward()).h)
      final_h.push_back(static_cast<cottention::Accumulate<T>>(value));
    auto args = inputs.backward();
    args.final_h = final_h.data();
    check_gradient(inputs, run_cuda_backward<P>(args));
  });
}

TEST_CASE("Backward: the gradient of m is right where m is large") {
  for (const float m : {-30.0f, 30.0f, 40.0f})
    for_each_in_turn({of_length(40)}, [m]<class P>(const Case& c, Presence final_h) {
      Inputs<T> inputs(c);
      std::fill(inputs.scale_logit().begin(), inputs.scale_logit().end(), m);
      INFO("m " << m);
      check_cuda_backward<P>(inputs, {.final_h = final_h});
    });
}

TEST_CASE("Backward: each gradient may be wanted alone, and dfinal_state left out") {
  for_each_in_turn({of_length(20), of_length(33), of_length(40)}, []<class P>(Case c, Presence final_h) {
    c.shape.batch = 2;
    c.padding = Padding::unrelated;
    c.initial_state = Presence::present;
    Inputs<T> inputs(c);
    INFO(describe<T>(c));
    auto args = inputs.backward();
    const auto final_state = final_h_of(inputs);
    if (final_h == Presence::present) args.final_h = final_state.data();
    args.dfinal_state = nullptr;
    const Gradient expected = gradient(c.mask, c.scale, args);
    check_gradient(inputs, run_cuda_backward_one_by_one<P>(args), expected);
    run_cuda_backward<P>(args, {.wanted = {}});
  });
}

TEST_CASE("Backward: NaN and infinity reach only the gradients that see them") {
  const double nan = std::numeric_limits<double>::quiet_NaN(),
               infinity = std::numeric_limits<double>::infinity();
  std::size_t turn = 0;
  for (const int operand : {0, 1, 2, 3})
    for (const std::int64_t position : {0, 17, 39})
      for (const Mask mask : {Mask::causal, Mask::bidirectional}) {
        const Case c{.mask = mask, .scale = scales[turn % 3], .shape = {2, 40, 40, 2, 2, 0, 0}};
        const double value = turn / 2 % 2 == 0 ? nan : infinity;
        const Presence final_h = turn / 4 % 2 == 0 ? Presence::absent : Presence::present;
        ++turn;
        with_kind(c, [&]<class P>(const Case& of_kind) {
          check_spread_of<P>(of_kind, operand, position, value, final_h);
        });
      }
}

TEST_CASE("Backward: two calls give the same bits") {
  Case c{.shape = {1, 100, 100, 2, 1, 0, 0}, .padding = Padding::middle, .initial_state = Presence::present};
  for_each_in_turn({c}, []<class P>(const Case& of_kind, Presence) {
    const Inputs<T> inputs(of_kind);
    INFO(describe<T>(of_kind));
    CHECK(same_bits(run_cuda_backward<P>(inputs.backward()), run_cuda_backward<P>(inputs.backward())));
  });
}

#if __has_include(<emulation.hpp>)
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
