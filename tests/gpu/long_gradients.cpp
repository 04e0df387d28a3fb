// Gradients of 131,072 tokens, which take the emulator too long.
#include <cstdint>

#include "support/catch.hpp"
#include "support/cuda_backward.hpp"

using cottention::HeadDim, cottention::Mask, cottention::Problem, cottention::Scale;
using namespace support;

namespace {

constexpr std::int64_t tokens = 131'072;

template <class T, int d, Mask mask, Scale scale>
void check(Rows rows) {
  using P = Problem<T, HeadDim{d, d}, mask, scale>;
  Inputs<T> inputs({.mask = mask, .scale = scale, .shape = {1, tokens, tokens, 1, 1, d, d}, .rows = rows});
  auto args = inputs.backward();
  const auto final_h = final_h_of(inputs);
  const Gradient expected = gradient(mask, scale, args);
  // In one piece, one sum is the longest; the library would cut the sequence.
  for (const int pieces : {0, 1})
    for (const auto* h : {static_cast<decltype(final_h.data())>(nullptr), final_h.data()}) {
      INFO(describe<T>(inputs.description())
           << ", pieces " << pieces << (h != nullptr ? ", final_h given" : ""));
      args.final_h = h;
      check_gradient(inputs, run_cuda_backward<P>(args, {.split = {pieces}}), expected);
    }
}

}  // namespace

TEMPLATE_TEST_CASE("Backward: 131,072 tokens are right", "[long]", double, float, cottention::half,
                   cottention::bfloat16) {
  // Correlated rows let the state grow with the length; without scaling, nothing keeps it from that.
  for (const Rows rows : {Rows::normal, Rows::correlated}) {
    check<TestType, 16, Mask::causal, Scale::none>(rows);
    check<TestType, 16, Mask::causal, Scale::by_key>(rows);
    check<TestType, 16, Mask::bidirectional, Scale::by_key>(rows);
  }
}

TEST_CASE("Backward: 131,072 tokens of wider heads are right", "[long]") {
  check<cottention::bfloat16, 64, Mask::causal, Scale::by_key>(Rows::correlated);
  check<cottention::bfloat16, 64, Mask::causal, Scale::none>(Rows::normal);
}
