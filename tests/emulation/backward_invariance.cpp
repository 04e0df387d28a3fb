// In the batch-invariant plan a sequence's gradients do not depend on what else is in the batch.
#include <cstdint>
#include <random>
#include <vector>

#include "support/catch.hpp"
#include "support/cuda_backward.hpp"

using cottention::HeadDim, cottention::Mask, cottention::Plan, cottention::Problem, cottention::Scale;
using namespace support;

TEMPLATE_TEST_CASE("In the batch-invariant plan a sequence has the gradients that it has alone, bit for bit",
                   "", float, cottention::bfloat16) {
  using P = Problem<TestType, HeadDim{16, 16}, Mask::causal, Scale::by_key>;
  constexpr std::int64_t dim = 16;
  const std::vector<std::int32_t> offsets{0, 100, 1300, 1600};  // one piece each, or several
  const std::int64_t all = offsets.back();
  std::mt19937 generator(7);
  std::normal_distribution<float> normal;
  std::vector<TestType> q(static_cast<std::size_t>(all * dim)), k(q), v(q), g(q);
  for (auto* rows : {&q, &k, &v, &g})
    for (TestType& x : *rows) x = TestType(normal(generator));
  const float scale_logit = 0.5f;
  const auto arguments = [&](std::int64_t first, std::int64_t rows) {
    const auto from = [&](const std::vector<TestType>& x) {
      return cottention::Tensor<const TestType>{x.data() + first * dim};
    };
    return cottention::BackwardArguments<TestType>{.shape = {1, rows, rows, 1, 1, dim, dim},
                                                   .q = from(q),
                                                   .k = from(k),
                                                   .v = from(v),
                                                   .dout = from(g),
                                                   .scale_logit = &scale_logit,
                                                   .plan = Plan::batch_invariant};
  };
  constexpr Wanted wanted[] = {Wanted::dq, Wanted::dk, Wanted::dv};
  auto packed = arguments(0, all);
  packed.shape.batch = static_cast<std::int64_t>(offsets.size()) - 1;
  packed.cu_seqlens_q = packed.cu_seqlens_k = offsets.data();
  const Gradient together = run_cuda_backward<P>(packed, {.wanted = wanted});
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
    const std::int64_t rows = offsets[b + 1] - offsets[b];
    const Gradient alone = run_cuda_backward<P>(arguments(offsets[b], rows), {.wanted = wanted});
    const auto same = [&](const std::vector<double>& x, const std::vector<double>& of_all) {
      return std::equal(x.begin(), x.end(), of_all.begin() + offsets[b] * dim);
    };
    INFO("sequence " << b);
    CHECK(same(alone.dq, together.dq));
    CHECK(same(alone.dk, together.dk));
    CHECK(same(alone.dv, together.dv));
  }
}
