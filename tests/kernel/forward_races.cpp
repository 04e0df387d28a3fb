// Forward's kernels on small shapes with everything that they synchronise over: several chunks, stages and
// pieces, grouped heads, warps that share columns, masks and weights. For the race detector, which needs
// ThreadSanitizer; without it, one more comparison with the reference.
#include <concepts>

#include "support/catch.hpp"
#include "support/cuda_forward.hpp"
#include "support/left_out.hpp"
#include "support/mma_sync_alone.hpp"

using cottention::HeadDim, cottention::Mask, cottention::Problem, cottention::Scale, cottention::Tiling;
using namespace support;

namespace {

template <class T, int qk, int v, Mask mask, Scale scale = Scale::by_key>
using P = Problem<T, HeadDim{qk, v}, mask, scale>;

/// Problems that the wgmma engine serves, and that only calls on a device without it have here.
template <cottention::AnyProblem P>
constexpr bool is_without_wgmma = P::head_dim == HeadDim{64, 64} &&
                                  (std::same_as<typename P::element, cottention::half> ||
                                   P::mask == Mask::bidirectional);

}  // namespace

template <cottention::AnyProblem P, cottention::recurrence::Output output, Tiling tiling>
constexpr bool
    cottention::device::is_left_out<cottention::sm90::Walk<cottention::kernel::Roles<P, output>, tiling>> =
        is_without_wgmma<P>;
template <cottention::AnyProblem P, cottention::recurrence::Output output, Tiling tiling>
constexpr bool
    cottention::device::is_left_out<cottention::sm90::Reduce<cottention::kernel::Roles<P, output>, tiling>> =
        is_without_wgmma<P>;
template <cottention::AnyProblem P, cottention::recurrence::Output output, Tiling tiling>
constexpr bool
    cottention::device::is_left_out<cottention::sm90::Apply<cottention::kernel::Roles<P, output>, tiling>> =
        is_without_wgmma<P>;

namespace {

const Case masked{
    .shape = {1, 150, 150, 2, 1, 0, 0}, .padding = Padding::middle, .initial_state = Presence::present};
const Case in_pieces{.shape = {1, 600, 600, 1, 1, 0, 0}};

}  // namespace

#ifdef __SANITIZE_ADDRESS__  // looks at memory, which types of one size use alike
#define COTTENTION_ELEMENTS double, float, cottention::half
#else
#define COTTENTION_ELEMENTS double, float, cottention::half, cottention::bfloat16
#endif

TEMPLATE_TEST_CASE("No race in forward of the tuned tilings", "", COTTENTION_ELEMENTS) {
  const MmaSyncAlone mma_sync_alone;
  check_cuda_forward<P<TestType, 64, 64, Mask::causal>>(masked, {.split = {1}});
  check_cuda_forward<P<TestType, 64, 64, Mask::bidirectional>>(masked, {.split = {1}});
  check_cuda_forward<P<TestType, 24, 40, Mask::causal, Scale::by_query>>(in_pieces, {.split = {2}});
  check_cuda_forward<P<TestType, 24, 40, Mask::bidirectional>>(in_pieces, {.split = {2}});
}

TEST_CASE("No race in forward where warps share columns") {
  check_cuda_forward<P<cottention::bfloat16, 256, 24, Mask::causal>>(masked, {.split = {1}});
  check_cuda_forward<P<cottention::bfloat16, 256, 24, Mask::bidirectional>>(masked, {.split = {1}});
}

TEST_CASE("No race in forward where they take rows apart") {
  using Q = P<cottention::half, 64, 64, Mask::causal>;
  using R = P<cottention::bfloat16, 64, 64, Mask::bidirectional>;
  check_cuda_forward<Q, cottention::tuning::low_occupancy_forward<Q>>(masked, {.split = {1}});
  check_cuda_forward<R, cottention::tuning::low_occupancy_forward<R>>(masked, {.split = {1}});
}

TEST_CASE("No race in forward with one stage or three") {
  using Q = P<cottention::bfloat16, 32, 32, Mask::causal>;
  check_cuda_forward<Q, Tiling{.chunk = 32, .warps = 2, .stages = 1, .columns = 32}>(masked, {.split = {1}});
  check_cuda_forward<Q, Tiling{.chunk = 16, .warps = 2, .stages = 3, .columns = 32}>(masked, {.split = {1}});
}

TEST_CASE("No race in forward of the wgmma engine") {
  using cottention::recurrence::Output;
  using Q = P<cottention::bfloat16, 64, 64, Mask::causal>;
  using R = P<cottention::half, 64, 80, Mask::bidirectional>;
  constexpr Tiling of_q = cottention::tuning::wgmma_recurrence<cottention::kernel::Roles<Q, Output::o>>,
                   of_r = cottention::tuning::wgmma_recurrence<cottention::kernel::Roles<R, Output::o>>;
  check_cuda_forward<Q, of_q>(masked, {.split = {1}});
  check_cuda_forward<Q, of_q>(in_pieces, {.split = {2}});
  check_cuda_forward<R, of_r>(masked, {.split = {1}});
  check_cuda_forward<Q, of_q>({.shape = {1, 10, 10, 2, 1, 0, 0}}, {.split = {1}});
  check_cuda_forward<Q, of_q>({.shape = {1, 70, 70, 2, 1, 0, 0}, .rows = Rows::tiny}, {.split = {1}});
}
