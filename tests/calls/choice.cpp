// What `choice` says of calls of backward. Every call in tests of forward and backward is held to what it
// says of launches and of scratch memory (support/cuda_forward.hpp, support/cuda_backward.hpp).
#include <cstdint>

#if __has_include(<emulation.hpp>)
#include <emulation.hpp>

#include "support/host_calls.hpp"
#endif

#include <cottention/backward.cuh>
#include <cottention/forward.cuh>

#include "support/catch.hpp"
#include "support/extents.hpp"

using cottention::HeadDim, cottention::Mask, cottention::Plan, cottention::Problem, cottention::Scale;
using namespace support;

namespace {

using Fused = Problem<cottention::bfloat16, HeadDim{64, 64}, Mask::causal, Scale::by_key>;

/// Arguments of a call of so many heads, all of whose gradients are wanted; there is no memory behind them.
cottention::BackwardArguments<cottention::bfloat16> wanted_of(std::int64_t length, std::int64_t heads_q,
                                                              std::int64_t heads_kv) {
  static cottention::bfloat16 gradient{};
  static float of_m = 0, final_h = 0;
  cottention::BackwardArguments<cottention::bfloat16> args;
  args.shape = Extents{1, length, length, heads_q, heads_kv, 64, 64};
  args.dq.data = args.dk.data = args.dv.data = &gradient;
  args.dscale_logit = &of_m;
  args.final_h = &final_h;
  return args;
}

}  // namespace

TEST_CASE("choice says whether one kernel makes all gradients, and with which tiling") {
  using cottention::choice;
  const auto args = wanted_of(1100, 2, 2);
  const auto fused = choice<Fused>(args, {1});
  REQUIRE(fused.fused);
  CHECK(fused.launches == 3);  // Gradient, Walk for the dq that it leaves, ScaleGrad
  CHECK(fused.dq.pieces == 1);
  CHECK(fused.dk.tiling.chunk == 0);
  CHECK(fused.workspace_bytes == cottention::workspace_bytes<Fused>(args, {1}));
  // One by one in groups, for one gradient alone, with a tiling of the caller's, and where sequences are cut.
  auto untaken = args;
  untaken.k.strides.head =
      -64;  // by TMA, and so by the wgmma engine's kernel, which takes all but the last two
  const auto cut = choice<Fused>(untaken, {2});
  CHECK(!cut.fused);
  CHECK(cut.fused_tiling.chunk == 0);
  CHECK(cut.dq.pieces == 2);
  auto grouped = wanted_of(1100, 4, 2);
  grouped.k.strides.head = -64;
  CHECK(!choice<Fused>(grouped, {1}).fused);
  auto one = args;
  one.dk.data = one.dv.data = nullptr;
  one.dscale_logit = nullptr;
  const auto alone = choice<Fused>(one, {1});
  CHECK(!alone.fused);
  CHECK(alone.launches == 1);
  CHECK(alone.dq.tiling.chunk > 0);
  CHECK(fused.dq.tiling == alone.dq.tiling);
  CHECK(alone.dk.pieces == 0);
  constexpr cottention::Tiling own{.chunk = 16, .warps = 2, .stages = 1, .columns = 32};
  const auto given = choice<Fused, own>(args, {1});
  CHECK(!given.fused);
  CHECK(given.dk.tiling == own);
  auto invariant = wanted_of(100, 2, 2);
  invariant.k.strides.head = -64;
  CHECK(choice<Fused>(invariant, {1}).fused);
  invariant.plan = Plan::batch_invariant;
  CHECK(!choice<Fused>(invariant).fused);
}

#if __has_include(<emulation.hpp>)
TEST_CASE("On compute capability 9.0 one kernel makes all gradients, of cut sequences too") {
  using cottention::choice, cottention::Engine;
  const RestoreOptions restore;
  for (const std::int64_t heads_q : {2, 4}) {
    const auto args = wanted_of(100, heads_q, 2);
    const auto fused = choice<Fused>(args, {1});
    CHECK(fused.fused);
    CHECK(fused.fused_tiling == cottention::tuning::wgmma_fused_backward<Fused>);
    CHECK(fused.dq.tiling.engine == Engine::wgmma);
  }
  // With S and D before pieces, or S alone, summed first: launches are those of Reduce and Prefix, Gradient,
  // Walk for the dq that it leaves, and ScaleGrad.
  const auto summed = [](const auto& args, cottention::Split split, int pieces, int launches) {
    const auto chosen = choice<Fused>(args, split);
    CHECK(chosen.fused_tiling.engine == Engine::wgmma);
    CHECK(chosen.fused_pieces == pieces);
    CHECK(chosen.dq.pieces == pieces);
    CHECK(chosen.launches == launches);
  };
  auto args = wanted_of(1100, 4, 2);
  auto invariant = args;
  invariant.plan = Plan::batch_invariant;
  summed(args, {1}, 1, 3);
  summed(args, {2}, 2, 7);
  summed(invariant, {}, 4, 7);
  args.final_h = invariant.final_h = nullptr;
  summed(args, {1}, 1, 4);
  summed(args, {2}, 2, 7);
  summed(invariant, {}, 4, 7);
  // Of two gradients alone, S is worth a pass of its own only where all states are summed anyway.
  args.dv.data = invariant.dv.data = nullptr;
  CHECK(choice<Fused>(args, {2}).fused);
  CHECK(choice<Fused>(invariant).fused);
  invariant.shape.seq_q = invariant.shape.seq_k = 100;  // sequences of a longer batch may be cut
  CHECK(choice<Fused>(invariant).fused);
  CHECK(!choice<Fused>(args, {1}).fused);
  CHECK(choice<Fused>(args, {1}).dk.tiling.engine == Engine::wgmma);
  args.shape.heads_q = 2;  // few blocks take a kernel for each gradient, many one of mma.sync
  CHECK(!choice<Fused>(args, {1}).fused);
  // dk and dv alone need no S.
  auto keys = wanted_of(1100, 4, 2);
  keys.dq.data = nullptr;
  CHECK(!choice<Fused>(keys, {2}).fused);
  CHECK(choice<Fused>(keys, {2}).dk_dv.pieces == 2);
  cottention::emulation::options().multiprocessors = 1;
  CHECK(choice<Fused>(args, {1}).fused_tiling.engine == Engine::mma_sync);
  args = wanted_of(100, 2, 2);
  args.k.strides.head = -64;  // TMA does not take it
  CHECK(choice<Fused>(args, {1}).fused_tiling.engine == Engine::mma_sync);
}

TEST_CASE("On compute capability 9.0 one kernel makes dk and dv where both would be recurrences") {
  using cottention::choice, cottention::Engine;
  using Wide = Problem<cottention::bfloat16, HeadDim{128, 128}, Mask::causal, Scale::by_key>;
  const RestoreOptions restore;
  auto args = wanted_of(1100, 2, 2);
  args.shape.dim_qk = args.shape.dim_v = 128;
  for (const Plan plan : {Plan::automatic, Plan::batch_invariant})
    for (const int pieces : {1, 2}) {
      args.plan = plan;
      const auto shared = choice<Wide>(args, {pieces});
      CHECK(!shared.fused);
      CHECK(shared.dk_dv.tiling == cottention::tuning::wgmma_key_gradients<Wide>);
      CHECK(shared.dk_dv.pieces == pieces);
      CHECK(shared.dq.pieces == pieces);
      CHECK(shared.dk.tiling.chunk == 0);
      CHECK(shared.dv.tiling.chunk == 0);
      // Walk of dq, KeyGradients, ScaleGrad; before the first two Reduce and Prefix.
      CHECK(shared.launches == (pieces == 1 ? 3 : 7));
    }
  const auto is_shared = [](const auto& of) { return choice<Wide>(of, {1}).dk_dv.tiling.chunk != 0; };
  auto one = args;
  one.dv.data = nullptr;
  CHECK(!is_shared(one));
  CHECK(choice<Wide>(one, {1}).dk.tiling.engine == Engine::wgmma);
  float state = 0;
  one.dinitial_state = &state;  // which dv's recurrence makes
  CHECK(is_shared(one));
  auto strided = args;
  strided.dk.strides.head = -128;  // TMA does not take it
  CHECK(!is_shared(strided));
  strided = args;
  strided.dq.strides.head = -128;  // of dq alone
  CHECK(is_shared(strided));
  CHECK(choice<Wide>(strided, {1}).dq.tiling.engine == Engine::mma_sync);
  using T = cottention::half;
  using WideHalf = Problem<T, HeadDim{128, 128}, Mask::causal, Scale::by_key>;
  T gradient{};
  cottention::BackwardArguments<T> half_args;
  half_args.shape = args.shape;
  half_args.dk.data = half_args.dv.data = &gradient;
  CHECK(choice<WideHalf>(half_args, {1}).dk_dv.tiling == cottention::tuning::wgmma_key_gradients<WideHalf>);
  cottention::emulation::options().compute_capability = 80;
  CHECK(!is_shared(args));
}

TEST_CASE(
    "Which engine a call takes follows from no pointer, and in the batch-invariant plan from no batch size") {
  using T = cottention::bfloat16;
  const auto engine_of = [](const cottention::ForwardArguments<T>& args) {
    return cottention::choice<Fused>(args).o.tiling.engine;
  };
  cottention::ForwardArguments<T> args;
  args.shape = Extents{1, 100, 100, 2, 2, 64, 64};
  CHECK(engine_of(args) == cottention::Engine::wgmma);
  args.q.data = reinterpret_cast<const T*>(std::uintptr_t{8});
  CHECK(engine_of(args) == cottention::Engine::wgmma);
  args.q.strides = {.batch = -100 * 2 * 64, .seq = 2 * 64, .head = 64};
  CHECK(engine_of(args) == cottention::Engine::wgmma);
  args.plan = Plan::batch_invariant;
  CHECK(engine_of(args) == cottention::Engine::mma_sync);
  args.shape.batch = 2;
  CHECK(engine_of(args) == cottention::Engine::mma_sync);
}

TEST_CASE("The tiling of the kernel that makes all gradients follows from blocks and shared memory") {
  using cottention::choice, cottention::tuning::Occupancy;
  const RestoreOptions restore;
  cottention::emulation::options().compute_capability = 80;  // without the wgmma engine
  const auto args = wanted_of(100, 2, 2);
  const auto tiling = [](Occupancy occupancy) {
    return cottention::tuning::fused_backward_tiling<Fused>(occupancy);
  };
  CHECK(choice<Fused>(args, {1}).fused_tiling == tiling(Occupancy::low));
  cottention::emulation::options().shared_bytes_per_block = 99 * 1024;  // room for the smaller one alone
  CHECK(choice<Fused>(args, {1}).fused_tiling == tiling(Occupancy::high));
  cottention::emulation::options().shared_bytes_per_block = 68 * 1024;
  CHECK(!choice<Fused>(args, {1}).fused);
  cottention::emulation::options().shared_bytes_per_block = 227 * 1024;
  cottention::emulation::options().multiprocessors = 1;
  CHECK(choice<Fused>(args, {1}).fused_tiling == tiling(Occupancy::high));
}
#endif
