// Sequences split over ranks with the library's choice of kernels on compute capability 9.0, which takes the
// wgmma engine where it can, in the emulator, against the reference.
#include <algorithm>
#include <string>
#include <vector>

#include <emulation.hpp>

#include "support/catch.hpp"
#include "support/cuda_parts.hpp"

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
  const auto launched = [](const char* kernel) {
    const auto& launches = cottention::emulation::launches();
    return std::any_of(launches.begin(), launches.end(), [kernel](const auto& launch) {
      return launch.kernel.find(kernel) != std::string::npos;
    });
  };
  check_cuda_parts<Square<Mask::causal, Scale::by_key>>(some);
  CHECK(launched("sm904Walk"));
  CHECK(launched("sm908Gradient"));
  cottention::emulation::clear_statistics();
  check_cuda_parts<Square<Mask::bidirectional, Scale::by_key>>(some);
  CHECK(launched("sm905Apply"));
  CHECK(launched("sm9016KeyGradientApply"));
}
