// What backward's kernels move, counted by the emulator.
#include <concepts>
#include <cstdint>
#include <span>

#include <emulation.hpp>

#include "support/catch.hpp"
#include "support/conflicts.hpp"
#include "support/cuda_backward.hpp"
#include "support/left_out.hpp"
#include "support/many_blocks.hpp"
#include "support/mma_sync_alone.hpp"

using cottention::HeadDim, cottention::Mask, cottention::Problem, cottention::Scale;
using namespace support;

namespace {

/// Problems that are tried with gradients made together on the wgmma engine.
template <cottention::AnyProblem P>
constexpr bool has_gradients_on_wgmma =
    std::same_as<typename P::element, cottention::bfloat16>&& P::head_dim == HeadDim{64, 64};

}  // namespace

// What none of the calls below launches.
template <cottention::AnyProblem P, cottention::Tiling tiling>
constexpr bool cottention::device::is_left_out<cottention::sm90::Gradient<P, tiling>> =
    !has_gradients_on_wgmma<P>;
template <cottention::AnyProblem P, cottention::Tiling tiling>
constexpr bool cottention::device::is_left_out<cottention::sm90::KeyGradients<P, tiling>> =
    P::head_dim.qk != 128;
template <cottention::AnyProblem P, cottention::recurrence::Output output, cottention::Tiling tiling>
constexpr bool
    cottention::device::is_left_out<cottention::sm90::Walk<cottention::kernel::Roles<P, output>, tiling>> =
        !has_gradients_on_wgmma<P> || output != cottention::recurrence::Output::dq;
template <cottention::AnyProblem P, cottention::recurrence::Output output, cottention::Tiling tiling>
constexpr bool
    cottention::device::is_left_out<cottention::sm90::Reduce<cottention::kernel::Roles<P, output>, tiling>> =
        !has_gradients_on_wgmma<P>;
template <cottention::AnyProblem P, cottention::recurrence::Output output, cottention::Tiling tiling>
constexpr bool
    cottention::device::is_left_out<cottention::sm90::Apply<cottention::kernel::Roles<P, output>, tiling>> =
        !has_gradients_on_wgmma<P> || output != cottention::recurrence::Output::dq;
template <cottention::AnyProblem P, cottention::Tiling tiling>
constexpr bool cottention::device::is_left_out<cottention::sm90::KeyGradientApply<P, tiling>> =
    !has_gradients_on_wgmma<P>;

template <cottention::AnyProblem P, cottention::Tiling tiling>
constexpr bool cottention::device::is_left_out<cottention::sm80::GradientApply<P, tiling>> =
    has_gradients_on_wgmma<P>;
template <cottention::AnyProblem P, cottention::recurrence::Output output, cottention::Tiling tiling>
constexpr bool
    cottention::device::is_left_out<cottention::sm80::Walk<cottention::kernel::Roles<P, output>, tiling>> =
        output != cottention::recurrence::Output::dq;
template <cottention::kernel::AnyRoles R, cottention::Tiling tiling>
constexpr bool cottention::device::is_left_out<cottention::sm80::Reduce<R, tiling>> = true;
template <cottention::kernel::AnyRoles R, cottention::Tiling tiling>
constexpr bool cottention::device::is_left_out<cottention::sm80::Apply<R, tiling>> = true;

namespace {

constexpr Wanted rows_alone[] = {Wanted::dq, Wanted::dk, Wanted::dv};
constexpr Wanted rows_and_logit[] = {Wanted::dq, Wanted::dk, Wanted::dv, Wanted::dscale_logit};

/// Global bytes of a call, over those of reading q, k, v and dout and writing dq, dk and dv once.
template <cottention::AnyProblem P>
double traffic(const cottention::Shape& shape, Presence final_h, std::span<const Wanted> wanted = rows_alone,
               int pieces = 1) {
  using T = typename P::element;
  const Inputs<T> inputs(Case{.mask = P::mask, .scale = P::scale, .shape = shape});
  auto args = inputs.backward();
  const auto h = final_h_of(inputs);
  if (final_h == Presence::present) args.final_h = h.data();
  cottention::emulation::clear_statistics();
  (void)run_cuda_backward<P>(args, {.split = {pieces}, .wanted = wanted});
  const auto counted = cottention::emulation::statistics();
  const std::int64_t query_side = shape.seq_q * shape.heads_q * (2 * shape.dim_qk + shape.dim_v);
  const std::int64_t key_side = shape.seq_k * shape.heads_kv * (2 * shape.dim_qk + 2 * shape.dim_v);
  const double once =
      static_cast<double>(shape.batch * (query_side + key_side)) * static_cast<double>(sizeof(T));
  return static_cast<double>(counted.global_bytes_read + counted.global_bytes_written) / once;
}

}  // namespace

TEMPLATE_TEST_CASE("Gradients together move each tensor once", "", cottention::half, cottention::bfloat16) {
  using P = Problem<TestType, HeadDim{64, 64}, Mask::causal, Scale::by_key>;
  const cottention::Shape shape = support::Extents{1, 2048, 2048, 2, 2, 64, 64};
  const MmaSyncAlone mma_sync_alone;
  CHECK(traffic<P>(shape, Presence::present) <= 1.05);
  check_conflicts();
  const ManyBlocks many_blocks;
  CHECK(traffic<P>(shape, Presence::present) <= 1.05);
  check_conflicts();
}

TEST_CASE("Gradients together on the wgmma engine move each tensor once, of grouped heads too") {
  using P = Problem<cottention::bfloat16, HeadDim{64, 64}, Mask::causal, Scale::by_key>;
  for (const std::int64_t heads_q : {2, 4}) {
    const double moved = traffic<P>(support::Extents{1, 2048, 2048, heads_q, 2, 64, 64}, Presence::present);
    CHECK(moved >= 0.99);
    CHECK(moved <= 1.05);
  }
  check_conflicts();
}

TEST_CASE("dk and dv together on the wgmma engine move each of their tensors once, of grouped heads too") {
  using P = Problem<cottention::bfloat16, HeadDim{128, 128}, Mask::causal, Scale::by_key>;
  constexpr Wanted keys_alone[] = {Wanted::dk, Wanted::dv};
  for (const std::int64_t heads_q : {1, 2}) {
    // Of all that gradients together move, this leaves dq.
    const double of_all = static_cast<double>(3 * heads_q + 4),
                 of_these = static_cast<double>(2 * heads_q + 4);
    const double moved =
        traffic<P>(support::Extents{1, 2048, 2048, heads_q, 1, 128, 128}, Presence::absent, keys_alone) *
        of_all / of_these;
    CHECK(moved >= 0.99);
    CHECK(moved <= 1.05);
  }
  check_conflicts();
}

TEST_CASE("Bidirectional dk and dv together, and dq, move 11 tensors on the wgmma engine, cut or not") {
  using P = Problem<cottention::bfloat16, HeadDim{64, 64}, Mask::bidirectional, Scale::by_key>;
  // Of two pieces S and D are written by Reduce, read and written by Prefix, and read by each block after it.
  constexpr double state = 4.0 * 64 * 64 / (2048 * 64 * 2);
  for (const int pieces : {1, 2}) {
    const double moved =
        traffic<P>(support::Extents{1, 2048, 2048, 1, 1, 64, 64}, Presence::absent, rows_alone, pieces);
    CHECK(moved >= 0.99 * 11 / 7);
    CHECK(moved <= (11 + (pieces == 1 ? 2 : 16) * state) / 7 * 1.05);
  }
}

TEST_CASE("Gradients together on the wgmma engine read k and v again for S, and q and g for D") {
  using P = Problem<cottention::bfloat16, HeadDim{64, 64}, Mask::causal, Scale::by_key>;
  const cottention::Shape shape = support::Extents{1, 2048, 2048, 1, 1, 64, 64};
  // Beside the tensors a partial state is written and read by Reduce, Prefix and Gradient, S five times for
  // the first piece and four times for the last, and D five times for the piece that is before the other.
  constexpr double state = 4.0 * 64 * 64 / (2048 * 64 * 2);
  CHECK(traffic<P>(shape, Presence::absent) <= 9.0 / 7 * 1.05);
  CHECK(traffic<P>(shape, Presence::absent, rows_alone, 2) <= (10 + 14 * state) / 7 * 1.05);
  CHECK(traffic<P>(shape, Presence::present, rows_alone, 2) <= (9 + 10 * state) / 7 * 1.05);
}

TEST_CASE("Wide gradients together move each tensor once, causal and bidirectional") {
  using cottention::bfloat16;
  const cottention::Shape shape = support::Extents{1, 2048, 2048, 1, 1, 128, 128};
  const MmaSyncAlone mma_sync_alone;
  CHECK(traffic<Problem<bfloat16, HeadDim{128, 128}, Mask::causal, Scale::by_key>>(
            shape, Presence::present) <= 1.05);
  CHECK(traffic<Problem<bfloat16, HeadDim{128, 128}, Mask::bidirectional, Scale::by_key>>(
            shape, Presence::present) <= 1.05);
}

TEST_CASE("The bound of scale_logit's gradient by query lets long sequences of ordinary rows be read once") {
  const cottention::Shape shape = support::Extents{1, 32'768, 32'768, 1, 1, 16, 16};
  CHECK(traffic<Problem<cottention::half, HeadDim{16, 16}, Mask::causal, Scale::by_query>>(
            shape, Presence::present, rows_and_logit) <= 1.05);
}

TEMPLATE_TEST_CASE("Without the final state they read k and v twice", "", cottention::bfloat16) {
  const cottention::Shape shape = support::Extents{1, 2048, 2048, 2, 2, 64, 64};
  const MmaSyncAlone mma_sync_alone;
  CHECK(traffic<Problem<TestType, HeadDim{64, 64}, Mask::causal, Scale::by_key>>(shape, Presence::absent) <=
        9.0 / 7 * 1.05);
}
