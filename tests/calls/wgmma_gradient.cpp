// Gradients of causal calls that one kernel of the wgmma engine makes, against the reference: in the
// emulator, or on a GPU. It takes S from final_h. Cases are tried with every scale in turn.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#if __has_include(<emulation.hpp>)
#include <emulation.hpp>
#endif

#include "support/cases.hpp"
#include "support/catch.hpp"
#include "support/cuda_backward.hpp"

using cottention::bfloat16, cottention::HeadDim, cottention::Mask, cottention::Problem, cottention::Scale;
using namespace support;

namespace {

using T = bfloat16;
template <Scale scale>
using Of = Problem<T, HeadDim{64, 64}, Mask::causal, scale>;

/// Checks the gradients of a case, and that one kernel of this engine made them.
template <cottention::AnyProblem P>
void check(Inputs<T>& inputs, BackwardManner manner = {}) {
#if __has_include(<emulation.hpp>)
  cottention::emulation::clear_statistics();
#endif
  manner.final_h = Presence::present;
  manner.split = {1};
  check_cuda_backward<P>(inputs, manner);
#if __has_include(<emulation.hpp>)
  const cottention::Shape s = inputs.description().shape;
  if (s.batch == 0 || s.seq_q == 0) return;
  const auto& launches = cottention::emulation::launches();
  CHECK(std::count_if(launches.begin(), launches.end(), [](const auto& launch) {
          return launch.kernel.find("sm908Gradient") != std::string::npos;
        }) == 1);
  CHECK(std::none_of(launches.begin(), launches.end(),
                     [](const auto& launch) { return launch.kernel.find("sm80") != std::string::npos; }));
#endif
}

template <class F>
void for_each_scale(F f) {
  f.template operator()<Of<Scale::by_key>>();
  f.template operator()<Of<Scale::by_query>>();
  f.template operator()<Of<Scale::none>>();
}

/// Every `every`th causal case with its scale.
void check_all(const std::vector<Case>& some, std::size_t every, const BackwardManner& manner = {}) {
  std::size_t turn = 0;
  for (Case c : some) {
    if (c.mask != Mask::causal || turn++ % every != 0) continue;
    c.shape.dim_qk = c.shape.dim_v = 64;
    if (c.layout == Layout::gaps) c.layout = Layout::aligned_gaps;
    for_each_scale([&]<class P>() {
      if (c.scale != P::scale) return;
      Inputs<T> inputs(c);
      check<P>(inputs, manner);
    });
  }
}

}  // namespace

TEST_CASE("Wgmma gradients: every length is right") { check_all(cases::lengths(), 2); }
TEST_CASE("Wgmma gradients: masked tokens add nothing and masked queries get 0") {
  check_all(cases::paddings(), 1);
}
TEST_CASE("Wgmma gradients: packed sequences are right, empty ones included") {
  check_all(cases::packed(), 1);
}
TEST_CASE("Wgmma gradients: strided tensors are right and gaps stay untouched") {
  check_all(cases::layouts(), 1, {.layout = Layout::aligned_gaps});
}
TEST_CASE("Wgmma gradients: grouped heads are right") { check_all(cases::groups(), 1); }
TEST_CASE("Wgmma gradients: states go in and come out") { check_all(cases::states(), 1); }
TEST_CASE("Wgmma gradients: tiny, huge, zero and correlated rows are right") {
  check_all(cases::magnitudes(), 1);
}
