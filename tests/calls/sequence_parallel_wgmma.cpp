// Sequences split over ranks whose calls the wgmma engine serves, in the emulator, against the reference.
#include <cstdint>
#include <vector>

#include "support/catch.hpp"
#include "support/cuda_parts.hpp"
#include "support/wgmma_alone.hpp"

using cottention::HeadDim, cottention::Mask, cottention::Problem, cottention::Scale;
using namespace support;

namespace {

template <Mask mask, Scale scale>
using Square = Problem<bf16, HeadDim{64, 64}, mask, scale>;

}  // namespace

TEST_CASE("Parts on GPUs by wgmma: packed batches, states and masks are right") {
  std::vector<Case> some;
  for (const Mask mask : {Mask::causal, Mask::bidirectional})
    for (const Presence initial : {Presence::absent, Presence::present}) {
      some.push_back({.mask = mask,
                      .shape = {2, 300, 300, 2, 1, 64, 64},
                      .padding = Padding::middle,
                      .initial_state = initial});
      some.push_back({.mask = mask,
                      .shape = {.heads_q = 2, .heads_kv = 1, .dim_qk = 64, .dim_v = 64},
                      .lengths_q = {100, 0, 70, 200, 1},
                      .initial_state = initial});
    }
  check_cuda_parts<Square<Mask::causal, Scale::by_key>>(some);
  check_cuda_parts<Square<Mask::bidirectional, Scale::by_key>>(some);
}
