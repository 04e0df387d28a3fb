// Forward and backward on the wgmma engine from the PTX that nvcc generates: one kernel of each kind
// that the calls launch, in as few instantiations as that takes. wgmma.cpp has the rest.
#include <cstdint>

#include "support/catch.hpp"
#include "support/cuda_backward.hpp"
#include "support/cuda_forward.hpp"

using cottention::HeadDim, cottention::Mask, cottention::Problem, cottention::Scale, cottention::Tiling;
namespace recurrence = cottention::recurrence;
using namespace support;

namespace {

template <int qk, int v, Mask mask>
using Of = Problem<bf16, HeadDim{qk, v}, mask, Scale::by_key>;
template <cottention::AnyProblem P, recurrence::Output output>
constexpr Tiling tiling_of() {
  return cottention::tuning::wgmma_recurrence<cottention::kernel::Roles<P, output>>;
}

Case of_length(std::int64_t n) {
  return {.shape = {2, n, n, 2, 1, 0, 0}, .padding = Padding::middle, .initial_state = Presence::present};
}

}  // namespace

TEST_CASE("Forward of the wgmma engine from PTX: sequences whole and in pieces are right") {
  using Causal = Of<64, 64, Mask::causal>;
  using Bidirectional = Of<64, 80, Mask::bidirectional>;
  for (const std::int64_t n : {1, 70, 300})
    for (const int pieces : {1, 3}) {
      check_cuda_forward<Causal, tiling_of<Causal, recurrence::Output::o>()>(of_length(n),
                                                                             {.split = {pieces}});
      check_cuda_forward<Bidirectional, tiling_of<Bidirectional, recurrence::Output::o>()>(
          of_length(n), {.split = {pieces}});
    }
}

TEST_CASE("Backward of the wgmma engine from PTX: sequences whole and in pieces are right") {
  using P = Of<64, 64, Mask::causal>;
  for (const std::int64_t n : {1, 70, 300})
    for (const int pieces : {1, 3})
      check_cuda_backward<P, tiling_of<P, recurrence::Output::dv>()>(of_length(n), {.split = {pieces}});
}

TEST_CASE("All gradients in one kernel of the wgmma engine from PTX are right in half") {
  using P = Problem<fp16, HeadDim{64, 64}, Mask::causal, Scale::by_key>;
  for (const std::int64_t n : {1, 200})
    check_cuda_backward<P>(of_length(n), {.split = {1}, .final_h = Presence::present});
}
