// Forward, backward and step of bf16 from the PTX that nvcc generates: one kernel of each kind that the calls
// launch, in as few instantiations as that takes. The programs of tests/gpu have the rest.
#include <cstdint>

#include <cottention/backward.cuh>
#include <cottention/forward.cuh>
#include <cottention/step.cuh>

#include "support/catch.hpp"
#include "support/cuda_backward.hpp"
#include "support/cuda_forward.hpp"
#include "support/cuda_step.hpp"

using cottention::HeadDim, cottention::Mask, cottention::Problem, cottention::Scale;
using namespace support;

namespace {

template <Mask mask>
using Of = Problem<bf16, HeadDim{24, 40}, mask, Scale::by_key>;
template <Mask mask>
using Square = Problem<bf16, HeadDim{16, 16}, mask, Scale::by_key>;

Case of_length(std::int64_t n) {
  return {.shape = {2, n, n, 2, 1, 0, 0}, .padding = Padding::middle, .initial_state = Presence::present};
}

}  // namespace

TEST_CASE("Forward from PTX: sequences whole and in pieces are right") {
  for (const std::int64_t n : {1, 70, 300})
    for (const int pieces : {1, 3}) {
      check_cuda_forward<Of<Mask::causal>>(of_length(n), {.split = {pieces}});
      check_cuda_forward<Of<Mask::bidirectional>>(of_length(n), {.split = {pieces}});
    }
}

TEST_CASE("Backward from PTX: sequences whole and in pieces are right") {
  for (const std::int64_t n : {1, 70, 300})
    for (const int pieces : {1, 3})
      for (const Presence final_h : {Presence::absent, Presence::present}) {
        const BackwardManner manner{.split = {pieces}, .final_h = final_h};
        Case c = of_length(n);
        check_cuda_backward<Square<Mask::bidirectional>>(c, manner);
        c.shape.heads_kv = c.shape.heads_q;
        check_cuda_backward<Square<Mask::causal>>(c, manner);
      }
}

TEST_CASE("Step from PTX: any number of tokens is right") {
  using P = Of<Mask::causal>;
  for (const std::int64_t tokens : {1, 2, 5, 17})
    check_step<bf16>(device_stepper<bf16>(cottention::step<P, cottention::tuning::step_tilings<P>.list[0]>),
                     {.shape = {2, tokens, tokens, 2, 1, 24, 40}}, {}, 2, Layout::bshd);
}
