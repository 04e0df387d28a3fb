// The CUDA forward pass against the reference: in the emulator, or on a GPU. Compiled once for each element
// type, COTTENTION_TEST_ELEMENT.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#if __has_include(<emulation.hpp>)
#include <emulation.hpp>
#endif

#include "support/cases.hpp"
#include "support/catch.hpp"
#include "support/cuda_forward.hpp"
#include "support/left_out.hpp"
#include "support/pool_cases.hpp"
#include "support/wide.hpp"

using cottention::HeadDim, cottention::Mask, cottention::Problem, cottention::Scale, cottention::Split;
using namespace support;

namespace {

using T = COTTENTION_TEST_ELEMENT;

/// Problems of which some case below is cut into pieces.
template <cottention::AnyProblem P>
constexpr bool is_cut = P::head_dim == HeadDim{16, 16} || P::head_dim == HeadDim{16, 136} ||
                        P::head_dim == HeadDim{24, 40} || P::head_dim == HeadDim{64, 64};

}  // namespace

// What none of the calls below launches.
template <cottention::AnyProblem P, cottention::recurrence::Output output, cottention::Tiling tiling>
constexpr bool
    cottention::device::is_left_out<cottention::sm80::Reduce<cottention::kernel::Roles<P, output>, tiling>> =
        !is_cut<P>;

namespace {

/// Calls `f` with a Problem of every mask and scale.
template <HeadDim D, class F>
void for_each_kind(F f) {
  f.template operator()<Problem<T, D, Mask::causal, Scale::none>>();
  f.template operator()<Problem<T, D, Mask::causal, Scale::by_key>>();
  f.template operator()<Problem<T, D, Mask::causal, Scale::by_query>>();
  f.template operator()<Problem<T, D, Mask::bidirectional, Scale::none>>();
  f.template operator()<Problem<T, D, Mask::bidirectional, Scale::by_key>>();
  f.template operator()<Problem<T, D, Mask::bidirectional, Scale::by_query>>();
}

constexpr HeadDim odd{24, 40};

/// Runs those of `cases` that have a Problem's mask and scale, with its head dims, for every Problem of
/// `odd`; with the tilings for many blocks and for few in turn.
void check_all(const std::vector<Case>& some, const DeviceManner& manner = {}) {
  for_each_kind<odd>([&]<class P>() {
    constexpr cottention::Tiling few = cottention::tuning::low_occupancy_forward<P>;
    bool is_few = true;
    for (Case c : some) {
      if (c.mask != P::mask || c.scale != P::scale) continue;
      if (c.layout == Layout::gaps) c.layout = Layout::aligned_gaps;
      if constexpr (few != cottention::tuning::tuned_forward<P>) {
        is_few = !is_few;
        if (is_few) {
          check_cuda_forward<P, few>(c, manner);
          continue;
        }
      }
      check_cuda_forward<P>(c, manner);
    }
  });
}

constexpr int shortest_chunk = sizeof(T) == 2 ? 16 : 8;

// By numbers, and not by a HeadDim: nvcc 13.0 loses the name of such an argument of an alias.
template <int qk, int v>
using ByKey = Problem<T, HeadDim{qk, v}, Mask::causal, Scale::by_key>;
template <int qk, int v>
using Everything = Problem<T, HeadDim{qk, v}, Mask::bidirectional, Scale::by_key>;

}  // namespace

TEST_CASE("Every length is right") { check_all(cases::lengths()); }

TEST_CASE("Few tokens are right: the rounding of their scores does not average out") {
  if constexpr (sizeof(T) == 2) {
    std::vector<Case> some;
    for (std::int64_t n = 1; n <= 16; ++n)
      for (std::uint64_t seed = 1; seed <= (n <= 4 ? 10 : 2); ++seed)
        for (const Scale scale : {Scale::none, Scale::by_key, Scale::by_query})
          some.push_back({.scale = scale, .shape = {1, n, n, 1, 1, odd.qk, odd.v}, .seed = seed});
    check_all(some);
  }
}

TEST_CASE("A token whose query and key are nearly orthogonal is right") {
  for (const double size : {33, 41, 50, 60}) {
    Inputs<T> inputs(Case{.shape = {1, 1, 1, 1, 1, 64, 64}});
    make_nearly_orthogonal(inputs.q().row(0, 0), inputs.k().row(0, 0), 64, size);
    for (int d = 0; d < 64; ++d) {
      T& v = inputs.v().row(0, 0)[d];
      v = from_double<T>(cottention::to_double(v) * 0x1p10);  // o is to be in fp16's normal range
    }
    INFO("elements of about " << size);
    check_output(inputs, run_cuda_forward<ByKey<64, 64>>(inputs.forward()));
  }
}

TEST_CASE("Few tokens behind masked ones are right") {
  if constexpr (sizeof(T) == 2) {
    constexpr std::int64_t n = 130;
    for (const std::int64_t begin : {0, 15, 63, 64, 129})
      for (std::uint64_t seed = 1; seed <= 8; ++seed) {
        Case c{.shape = {1, n, n, 1, 1, odd.qk, odd.v}, .seed = seed};
        Inputs<T> inputs(c);
        std::vector<std::uint8_t> present(n);
        std::fill_n(present.begin() + begin, std::min<std::int64_t>(2, n - begin), std::uint8_t{1});
        auto args = inputs.forward();
        args.query_mask = args.key_mask = present.data();
        INFO(describe<T>(c) << ", tokens from " << begin << " on");
        CHECK(relative_error(run_cuda_forward<ByKey<odd.qk, odd.v>>(args).o, expected_output(c, args).o) <=
              bounds<T>.forward);
      }
  }
}

TEST_CASE("Every pair of head dims is right") {
  const auto check = []<HeadDim D>() {
    const Case c{.shape = {1, 70, 70, 2, 1, D.qk, D.v}, .initial_state = Presence::present};
    check_cuda_forward<ByKey<D.qk, D.v>>(c);
    check_cuda_forward<Everything<D.qk, D.v>>(c);
  };
  check.operator()<HeadDim{8, 8}>();
  check.operator()<HeadDim{16, 16}>();
  check.operator()<HeadDim{32, 32}>();
  check.operator()<HeadDim{64, 64}>();
  check.operator()<HeadDim{72, 104}>();
  check.operator()<HeadDim{96, 16}>();
  check.operator()<HeadDim{8, 256}>();
  check.operator()<HeadDim{128, 128}>();
  check.operator()<HeadDim{200, 136}>();
  check.operator()<HeadDim{256, 256}>();
}

TEST_CASE("Large head dims are right") {
  const auto check = []<HeadDim D>() {
    const Case c{.shape = {1, 37, 37, 1, 1, D.qk, D.v}};
    check_cuda_forward<ByKey<D.qk, D.v>>(c);
    check_cuda_forward<Everything<D.qk, D.v>>(c);
  };
  check.operator()<HeadDim{512, 512}>();
  check.operator()<HeadDim{1024, 64}>();
  check.operator()<HeadDim{64, 1024}>();
}

#if __has_include(<emulation.hpp>)
TEST_CASE("Tensor cores that cut sums off give right results") {
  const auto check = []<HeadDim D>(std::int64_t n) {
    for (const Rows rows : {Rows::normal, Rows::correlated}) {
      const Case c{.shape = {1, n, n, 1, 1, D.qk, D.v}, .rows = rows};
      check_cuda_forward<ByKey<D.qk, D.v>>(c);
      check_cuda_forward<Everything<D.qk, D.v>>(c);
    }
  };
  cottention::emulation::for_each_tensor_cores([&](const auto& cores) {
    INFO("blocks of " << cores.terms);
    check.template operator()<HeadDim{64, 64}>(300);
    check.template operator()<HeadDim{128, 128}>(70);
    check.template operator()<HeadDim{256, 256}>(37);
    check.template operator()<HeadDim{1024, 64}>(37);
  });
}
#endif

TEST_CASE("Masked tokens add nothing and masked queries get 0") { check_all(cases::paddings()); }

TEST_CASE("Packed sequences are right, empty ones included") { check_all(cases::packed()); }

TEST_CASE("Strided tensors are right and gaps stay untouched") {
  for (const Layout layout : {Layout::bshd, Layout::bhsd, Layout::aligned_gaps})
    check_all(cases::layouts(), {.layout = layout});
}

TEST_CASE("Grouped heads are right") { check_all(cases::groups()); }

TEST_CASE("States go in and come out, in place too") {
  for (const FinalState final_state : {FinalState::separate, FinalState::in_place, FinalState::absent})
    check_all(cases::states(), {.final_state = final_state});
}

TEST_CASE("States go in and come out by slot, and others keep every bit") {
  std::size_t turn = 0;
  for_each_kind<odd>([&]<class P>() {
    for (Case c : cases::pools()) {
      if (c.mask != P::mask || c.scale != P::scale) continue;
      c.shape.dim_qk = odd.qk, c.shape.dim_v = odd.v;
      for (const PoolSlots& slots : pool_slots(Inputs<T>(c).shape().batch))
        if (is_wide || turn++ % 2 == 0) check_pool<T>(cuda_forward<P>(), c, slots);
    }
  });
}

TEST_CASE("States by slot are right where sequences are in pieces, and have the bits of each alone") {
  const Case c{.shape = {.heads_q = 1, .heads_kv = 1, .dim_qk = odd.qk, .dim_v = odd.v},
               .lengths_q = {600, 0, 3, 900},
               .trailing_q = 40,
               .trailing_k = 40,
               .offset_type = OffsetType::int32};
  const auto check = [&]<Mask mask>(Case some) {
    using P = Problem<T, odd, mask, Scale::by_key>;
    some.mask = mask;
    const auto forward = cuda_forward<P>({4});
    const std::vector<PoolSlots> slots = pool_slots(4);
    for (const std::size_t i : {0, 1, 2, 3, 5, 6}) check_pool<T>(forward, some, slots[i]);
    check_pool_bits<T>(forward, some, slots[2]);
  };
  check.operator()<Mask::causal>(c);
  check.operator()<Mask::bidirectional>(c);
}

#if __has_include(<emulation.hpp>)
TEST_CASE("No schedule of blocks changes what states by slot are") {
  const Case c{.shape = {.heads_q = 1, .heads_kv = 1, .dim_qk = odd.qk, .dim_v = odd.v},
               .lengths_q = {600, 0, 3},
               .trailing_q = 5,
               .trailing_k = 5};
  const std::vector<PoolSlots> slots = pool_slots(3);
  cottention::emulation::for_each_schedule([&](const auto& options) {
    INFO(cottention::emulation::describe(options));
    for (const std::size_t i : {0, 2, 4}) check_pool<T>(cuda_forward<ByKey<odd.qk, odd.v>>({2}), c, slots[i]);
    Case both = c;
    both.mask = Mask::bidirectional;
    check_pool<T>(cuda_forward<Everything<odd.qk, odd.v>>({2}), both, slots[4]);
  });
}
#endif

TEST_CASE("Slots outside the pool count as none") {
  const Case c{.shape = {4, 40, 40, 2, 1, odd.qk, odd.v}};
  const Inputs<T> inputs(c);
  constexpr std::int32_t most = std::numeric_limits<std::int32_t>::max();
  const auto run = [&](Pool<T>& pool, const PoolSlots& slots) {
    return run_pool<T>(cuda_forward<ByKey<odd.qk, odd.v>>(), inputs, pool, pool, slots);
  };
  Pool<T> sound(c.shape, 3), bad(c.shape, 3);
  const auto o = run(sound, {.read = {-1, 2, -1, 0}, .write = {1, -1, -1, 0}, .pool_slots = 3});
  CHECK(same_bits(run(bad, {.read = {3, 2, most, 0}, .write = {1, 3, most, 0}, .pool_slots = 3}), o));
  CHECK(bad == sound);
}

TEST_CASE("A state may be updated in place by a sequence in pieces") {
  const std::vector<Case> some{{.shape = {1, 1100, 1100, 2, 1, 0, 0}, .initial_state = Presence::present},
                               {.shape = {.heads_q = 1, .heads_kv = 1},
                                .lengths_q = {600, 3, 0, 900},
                                .initial_state = Presence::present}};
  check_all(cases::of_every_kind(some), {.split = {4}, .final_state = FinalState::in_place});
}

TEST_CASE("Without query heads the state is right") {
  const std::vector<Case> some{{.shape = {2, 600, 600, 0, 2, 0, 0}, .initial_state = Presence::present}};
  for (const int pieces : {1, 2}) check_all(cases::of_every_kind(some), {.split = {pieces}});
}

TEST_CASE("Cross-attention is right") { check_all(cases::cross_attention()); }

TEST_CASE("Tiny, huge, zero and correlated rows are right") { check_all(cases::magnitudes()); }

TEST_CASE("Rows of zeros add nothing and get 0") {
  for_each_kind<odd>([]<class P>() {
    const Case c{.mask = P::mask, .scale = P::scale, .shape = {1, 70, 70, 1, 1, odd.qk, odd.v}};
    Inputs<T> inputs(c);
    for (const std::int64_t position : {0, 5, 6, 69}) {
      std::fill_n(inputs.q().row(position + (position == 5 ? 2 : 0), 0), odd.qk, from_double<T>(0));
      std::fill_n(inputs.k().row(position, 0), odd.qk, from_double<T>(0));
    }
    INFO(describe<T>(c));
    check_output(inputs, run_cuda_forward<P>(inputs.forward()));
  });
}

TEST_CASE("Small values keep their accuracy") {
  Case c{.shape = {1, 200, 200, 2, 1, 24, 40}};
  Inputs<T> inputs(c);
  for (std::int64_t position = 0; position < 200; ++position)
    for (std::int64_t d = 0; d < 40; ++d) {
      auto& v = inputs.v().row(position, 0)[d];
      v = from_double<T>(cottention::to_double(v) * 0x1p-10);
    }
  check_output(inputs, run_cuda_forward<ByKey<24, 40>>(inputs.forward(), {.split = {1}}));
}

TEST_CASE("Sequences in pieces are right, however many") {
  std::vector<Case> some;
  some.push_back({.shape = {1, 1000, 1000, 2, 1, 0, 0}, .initial_state = Presence::present});
  some.push_back({.shape = {2, 700, 700, 1, 1, 0, 0}, .padding = Padding::middle});
  some.push_back({.shape = {.heads_q = 1, .heads_kv = 1},
                  .lengths_q = {600, 3, 0, 900},
                  .padding = Padding::middle,
                  .initial_state = Presence::present});
  some.push_back({.shape = {1, 500, 900, 1, 1, 0, 0}, .padding = Padding::right});
  for (const int pieces : {1, 2, 3, 64})
    check_all(is_wide || pieces == 2 ? cases::of_every_kind(some) : cases::of_every_mask(some),
              {.split = {pieces}, .final_state = pieces == 3 ? FinalState::absent : FinalState::separate});
}

TEST_CASE("Blocks that share the columns of a row are right, in pieces too") {
  const auto check = []<Mask mask>() {
    const Case c{.mask = mask,
                 .shape = {1, 530, 530, 2, 1, 16, 136},
                 .padding = Padding::middle,
                 .initial_state = Presence::present};
    for (const int pieces : {1, 2})
      check_cuda_forward<Problem<T, HeadDim{16, 136}, mask, Scale::by_key>>(c, {.split = {pieces}});
  };
  check.template operator()<Mask::causal>();
  check.template operator()<Mask::bidirectional>();
}

TEST_CASE("131,072 tokens are right", "[long]") {
  for (Case c : cases::longest(16)) {
    if (!is_wide && c.rows == Rows::normal) continue;  // those whose state grows are harder
    if (c.mask == Mask::causal)
      check_cuda_forward<ByKey<16, 16>>(c);
    else
      check_cuda_forward<Everything<16, 16>>(c);
  }
  // Nothing keeps the state from growing.
  check_cuda_forward<Problem<T, HeadDim{16, 16}, Mask::causal, Scale::none>>(
      {.shape = {1, 131'072, 131'072, 1, 1, 16, 16}}, {.split = {1}});
}

TEST_CASE("Random problems are right") {
  for (std::uint64_t seed = 100; seed < 160; ++seed) check_all({cases::random(seed)});
}

TEST_CASE("NaN and infinity reach only the outputs that see them") {
  const double nan = std::numeric_limits<double>::quiet_NaN(),
               infinity = std::numeric_limits<double>::infinity();
  const auto check = []<class P>(Case c, int operand, std::int64_t position, double value) {
    c.shape.dim_qk = P::head_dim.qk;
    c.shape.dim_v = P::head_dim.v;
    Inputs<T> inputs(c);
    INFO(describe<T>(c) << ", operand " << operand << ", position " << position << ", " << value);
    TensorBuffer<T>& x = operand == 0 ? inputs.q() : operand == 1 ? inputs.k() : inputs.v();
    x.row(position, 0)[x.dim() / 2] = from_double<T>(value);
    const auto args = inputs.forward();
    const Output got = run_cuda_forward<P>(args, {.split = {c.shape.seq_k > 600 ? 3 : 1}});
    const Output expected = expected_output(c, args);
    check_spread(got.o, expected.o, c.shape.dim_v, bounds<T>.forward);
    check_spread(got.h, expected.h, c.shape.dim_qk * c.shape.dim_v, bounds<T>.state);
  };
  std::size_t turn = 0;
  for_each_kind<odd>([&]<class P>() {
    for (cases::Spoiled spoiled : cases::spoiled()) {
      Case& c = spoiled.description;
      if (c.mask != P::mask || c.scale != P::scale) continue;
      if (c.shape.seq_k > 1000) {
        c.shape.seq_q = c.shape.seq_k = 650;
        spoiled.positions = {400};
      }
      for (const int operand : {0, 1, 2})
        for (const std::int64_t position : spoiled.positions)
          check.template operator()<P>(c, operand, position, turn++ % 2 == 0 ? nan : infinity);
    }
  });
}

TEST_CASE("Beside a NaN the other columns of v keep their accuracy") {
  using P = Problem<T, HeadDim{64, 64}, Mask::causal, Scale::none>;
  constexpr int n = 130, spoiled = 0;
  Inputs<T> inputs(Case{.mask = P::mask, .scale = P::scale, .shape = {1, n, n, 1, 1, 64, 64}});
  for (int i = 0; i < n; ++i)
    for (int c = 0; c < 64; ++c) {
      T& v = inputs.v().row(i, 0)[c];
      v = from_double<T>(cottention::to_double(v) * (c == 8 && i == 2 ? 100 : 0.01));
    }
  inputs.v().row(0, 0)[spoiled] = from_double<T>(0);
  const Output expected = expected_output(inputs.description(), inputs.forward());
  inputs.v().row(0, 0)[spoiled] = from_double<T>(std::numeric_limits<double>::quiet_NaN());
  const auto check = [&](const Output& got) {
    for (const auto& [o, right] : {std::pair{&got.o, &expected.o}, std::pair{&got.h, &expected.h}}) {
      std::vector<double> others, right_others;
      for (std::size_t x = 0; x < o->size(); ++x)
        if (x % 64 != spoiled) {
          others.push_back((*o)[x]);
          right_others.push_back((*right)[x]);
        }
      CHECK(relative_error(others, right_others) <= bounds<T>.forward);
    }
  };
  check(run_cuda_forward<P>(inputs.forward()));
  check(run_cuda_forward<P, cottention::tuning::low_occupancy_forward<P>>(inputs.forward()));
}

TEST_CASE("Every legal tiling gives right results") {
  using Causal = Problem<T, HeadDim{64, 64}, Mask::causal, Scale::by_key>;
  using Bidirectional = Problem<T, HeadDim{64, 64}, Mask::bidirectional, Scale::by_key>;
  const auto check = []<cottention::Tiling tiling>() {
    for (const int n : {1, 70, 520}) {  // the last in two pieces
      const Case c{.shape = {1, n, n, 2, 1, 0, 0}, .initial_state = Presence::present};
      cottention::ForwardArguments<T> args;
      args.shape = Extents{1, n, n, 2, 1, 64, 64};
      cottention::ForwardChoice chosen;
      const cottention::CallStatus status = cottention::choice<Causal, tiling>(args, chosen);
      if (status.code == cottention::StatusCode::unsupported) return;  // more shared memory than there is
      CHECK(chosen.o.tiling == tiling);
      check_cuda_forward<Causal, tiling>(c, {.split = {2}});
      check_cuda_forward<Bidirectional, tiling>(c);
    }
  };
  check.operator()<cottention::Tiling{.chunk = shortest_chunk, .warps = 2, .stages = 2, .columns = 32}>();
  check.operator()<cottention::Tiling{.chunk = 16, .warps = 1, .stages = 1, .columns = 16}>();
  check.operator()<cottention::Tiling{.chunk = 32, .warps = 2, .stages = 3, .columns = 32}>();
  check.operator()<cottention::Tiling{.chunk = 64, .warps = 2, .stages = 2, .columns = 64}>();
  check.operator()<cottention::Tiling{.chunk = 32, .warps = 8, .stages = 2, .columns = 64}>();
  check.operator()<cottention::Tiling{.chunk = 64, .warps = 8, .stages = 2, .columns = 64}>();
  check.operator()<cottention::Tiling{.chunk = 16, .warps = 4, .stages = 1, .columns = 16}>();
  check.operator()<cottention::Tiling{.chunk = 48, .warps = 3, .stages = 4, .columns = 48}>();
}
