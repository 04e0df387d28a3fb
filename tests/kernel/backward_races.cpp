// Backward's kernels on small shapes with everything that they synchronise over, as forward_races.cpp has
// forward's.
#include "support/catch.hpp"
#include "support/cuda_backward.hpp"
#include "support/left_out.hpp"
#include "support/many_blocks.hpp"

using cottention::HeadDim, cottention::Mask, cottention::Problem, cottention::Scale;
using namespace support;

namespace {

template <class T, int qk, int v, Mask mask, Scale scale = Scale::by_key>
using P = Problem<T, HeadDim{qk, v}, mask, scale>;

}  // namespace

// What none of the calls below launches. Of the mma.sync engine only gradients made one by one have other
// kernels than those of dq, which makes rows again.
template <cottention::AnyProblem P, cottention::Tiling tiling>
constexpr bool cottention::device::is_left_out<cottention::sm90::KeyGradients<P, tiling>> =
    P::head_dim.v == 64;
template <cottention::AnyProblem P, cottention::recurrence::Output output, cottention::Tiling tiling>
constexpr bool
    cottention::device::is_left_out<cottention::sm90::Walk<cottention::kernel::Roles<P, output>, tiling>> =
        output != cottention::recurrence::Output::dq;
template <cottention::AnyProblem P, cottention::recurrence::Output output, cottention::Tiling tiling>
constexpr bool
    cottention::device::is_left_out<cottention::sm80::Walk<cottention::kernel::Roles<P, output>, tiling>> =
        P::head_dim.qk == 64 || (P::head_dim.qk == 32 && output != cottention::recurrence::Output::dq);
template <cottention::AnyProblem P, cottention::recurrence::Output output, cottention::Tiling tiling>
constexpr bool
    cottention::device::is_left_out<cottention::sm80::Reduce<cottention::kernel::Roles<P, output>, tiling>> =
        P::head_dim.qk != 24;
template <cottention::AnyProblem P, cottention::recurrence::Output output, cottention::Tiling tiling>
constexpr bool
    cottention::device::is_left_out<cottention::sm80::Apply<cottention::kernel::Roles<P, output>, tiling>> =
        P::head_dim.qk != 24;
template <cottention::AnyProblem P, cottention::Tiling tiling>
constexpr bool cottention::device::is_left_out<cottention::sm80::Gradient<P, tiling>> = P::head_dim.qk == 64;

namespace {

Case masked(std::int64_t heads_q) {
  return {.shape = {1, 100, 100, heads_q, 1, 0, 0},
          .padding = Padding::middle,
          .initial_state = Presence::present};
}
const Case in_pieces{.shape = {1, 600, 600, 1, 1, 0, 0}};

}  // namespace

TEMPLATE_TEST_CASE("No race in gradients made together", "", cottention::half, cottention::bfloat16) {
  const auto check = [] {
    check_cuda_backward<P<TestType, 32, 32, Mask::causal>>(masked(1),
                                                           {.split = {1}, .final_h = Presence::present});
    check_cuda_backward<P<TestType, 32, 32, Mask::causal, Scale::by_query>>(masked(1), {.split = {1}});
    check_cuda_backward<P<TestType, 32, 32, Mask::bidirectional>>(masked(2), {.split = {1}});
  };
  check();
  const ManyBlocks many_blocks;
  check();
}

TEST_CASE("No race in gradients made together on the wgmma engine") {
  using cottention::bfloat16, cottention::half;
  check_cuda_backward<P<half, 64, 64, Mask::causal>>(masked(2), {.split = {1}, .final_h = Presence::present});
  check_cuda_backward<P<bfloat16, 64, 64, Mask::causal, Scale::by_query>>(
      {.shape = {1, 300, 300, 1, 1, 0, 0}, .rows = Rows::mixed},
      {.split = {1}, .final_h = Presence::present});
  check_cuda_backward<P<bfloat16, 64, 64, Mask::causal>>(in_pieces, {.split = {2}});
}

TEST_CASE("No race in dk and dv made together on the wgmma engine") {
  using cottention::bfloat16;
  using Wide = P<bfloat16, 64, 80, Mask::causal>;
  check_cuda_backward<Wide>(masked(2), {.split = {1}});
  check_cuda_backward<Wide>({.shape = {1, 600, 600, 1, 1, 0, 0}, .rows = Rows::mixed}, {.split = {2}});
}

TEST_CASE("No race in gradients made one by one") {
  check_cuda_backward<P<double, 24, 40, Mask::causal>>(masked(2), {.split = {1}});
  check_cuda_backward<P<double, 24, 40, Mask::bidirectional>>(masked(2), {.split = {1}});
  check_cuda_backward<P<float, 24, 40, Mask::causal>>(masked(2), {.split = {1}});
  check_cuda_backward<P<float, 24, 40, Mask::bidirectional, Scale::by_query>>(masked(2), {.split = {1}});
  check_cuda_backward<P<cottention::half, 24, 40, Mask::causal>>(in_pieces, {.split = {2}});
}

TEST_CASE("No race in gradients of heads that blocks share") {
  check_cuda_backward<P<cottention::half, 256, 24, Mask::causal>>(masked(2), {.split = {1}});
}
