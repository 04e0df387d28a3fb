// How accurate gradients made together are at 131,072 tokens, for rows that strain the sum that is taken
// apart (docs/tuning.md). Takes minutes, so no test runs it: build the target gradient_accuracy, and run it.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include <emulation.hpp>

#include "support/catch.hpp"
#include "support/cuda_backward.hpp"

using cottention::HeadDim, cottention::Mask, cottention::Problem, cottention::Scale;
using namespace support;

namespace {

constexpr int dim = 16;
constexpr std::int64_t tokens = 131'072;

enum class Kind { independent, parallel, rising, crossing, first, cancelling, leaning, returning };

const char* name_of(Kind kind) {
  switch (kind) {
    case Kind::independent:
      return "independent";
    case Kind::parallel:
      return "nearly parallel";
    case Kind::rising:
      return "v growing 1,000-fold";
    case Kind::crossing:
      return "the same, and g falling 1,000-fold";
    case Kind::first:
      return "g only at the first 100 tokens";
    case Kind::cancelling:
      return "one key, v of period 3 and sum 0";
    case Kind::leaning:
      return "keys of period 3 and sum 0, one v";
    case Kind::returning:
      return "the same, and the keys' negatives";
  }
  return "";
}

template <class T>
struct Rows {
  std::vector<T> q = zeros(), k = zeros(), v = zeros(), g = zeros();
  static std::vector<T> zeros() { return std::vector<T>(static_cast<std::size_t>(tokens * dim)); }

  explicit Rows(Kind kind) {
    std::mt19937 generator(1);
    std::normal_distribution<double> normal;
    double directions[4][dim];
    for (auto& direction : directions)
      for (double& x : direction) x = normal(generator);
    const bool parallel =
        kind == Kind::parallel || kind == Kind::rising || kind == Kind::crossing || kind == Kind::first;
    for (std::int64_t i = 0; i < tokens; ++i) {
      const double rise = std::pow(1000.0, static_cast<double>(i) / tokens);
      const double v_factor = kind == Kind::rising || kind == Kind::crossing ? rise : 1;
      const double g_factor = kind == Kind::crossing ? 1 / rise : kind == Kind::first && i >= 100 ? 0 : 1;
      for (int e = 0; e < dim; ++e) {
        const auto next = [&](int tensor) {
          return parallel ? directions[tensor][e] + 0.1 * normal(generator) : normal(generator);
        };
        const auto at = static_cast<std::size_t>(i * dim + e);
        q[at] = from_double<T>(next(0));
        k[at] = from_double<T>(next(1));
        v[at] = from_double<T>(v_factor * next(2));
        g[at] = from_double<T>(g_factor * next(3));
      }
    }
    if (kind == Kind::cancelling) repeat();
    if (kind == Kind::leaning) lean(tokens, 0);
    if (kind == Kind::returning) lean(tokens / 2, tokens / 2);
  }

 private:
  /// After 64 tokens: three keys by turns whose sum is 0, and whose errors, when they are split, lean one
  /// way; from token `back` on, their negatives. Only the 64 tokens from `seen` on have gradients.
  void lean(std::int64_t back, std::int64_t seen) {
    constexpr int turns[] = {12, -75, 63};
    for (std::int64_t i = 0; i < tokens; ++i)
      for (std::int64_t e = 0; e < dim; ++e) {
        const auto at = static_cast<std::size_t>(i * dim + e);
        if (i < seen || i >= seen + 64) g[at] = from_double<T>(0);
        if (i < 64) continue;
        k[at] = from_double<T>(e == dim - 1 ? 0 : (i < back ? 1 : -1) * turns[(e + i) % 3]);
        v[at] = from_double<T>(1.5);
      }
  }

  /// The first key for all, and v0, v1, -v0 - v1 by turns: small integers, so that the sum is exactly 0.
  void repeat() {
    int turns[3][dim];
    for (std::size_t e = 0; e < dim; ++e) {
      turns[0][e] = static_cast<int>(4 * cottention::to_double(v[e]));
      turns[1][e] = static_cast<int>(4 * cottention::to_double(v[dim + e]));
      turns[2][e] = -turns[0][e] - turns[1][e];
    }
    for (std::size_t i = 0; i < tokens; ++i)
      for (std::size_t e = 0; e < dim; ++e) {
        k[i * dim + e] = k[e];
        v[i * dim + e] = from_double<T>(turns[i % 3][e]);
      }
  }
};

template <class T, Scale scale>
void measure(Kind kind) {
  using P = Problem<T, HeadDim{dim, dim}, Mask::causal, scale>;
  const Rows<T> rows(kind);
  const float scale_logit = 0.5f;
  const cottention::Shape shape = support::Extents{1, tokens, tokens, 1, 1, dim, dim};
  const Output forward = run_cuda_forward<P>({.shape = shape,
                                              .q = {rows.q.data()},
                                              .k = {rows.k.data()},
                                              .v = {rows.v.data()},
                                              .scale_logit = &scale_logit},
                                             {.split = {1}});
  const std::vector<float> final_h(forward.h.begin(), forward.h.end());
  const cottention::BackwardArguments<T> args{.shape = shape,
                                              .q = {rows.q.data()},
                                              .k = {rows.k.data()},
                                              .v = {rows.v.data()},
                                              .dout = {rows.g.data()},
                                              .scale_logit = &scale_logit,
                                              .final_h = final_h.data()};
  cottention::emulation::clear_statistics();
  const Gradient got = run_cuda_backward<P>(args, {.split = {1}});
  const auto moved = cottention::emulation::statistics();
  const double once = 7.0 * static_cast<double>(sizeof(T)) * dim * tokens;
  const bool again = static_cast<double>(moved.global_bytes_read + moved.global_bytes_written) > 1.5 * once;
  static constexpr Wanted dq_alone[] = {Wanted::dq};
  const Gradient alone = run_cuda_backward<P>(args, {.split = {1}, .wanted = dq_alone});
  const Gradient expected = gradient(P::mask, P::scale, args);
  constexpr const char* scales[] = {"none", "by_key", "by_query"};
  std::printf("%s %-8s %-35s dq %.2e dk %.2e dv %.2e dm %.2e, dq made alone %.2e%s\n",
              cottention::element_name<T>, scales[static_cast<int>(scale)], name_of(kind),
              relative_error(got.dq, expected.dq), relative_error(got.dk, expected.dk),
              relative_error(got.dv, expected.dv), relative_error(got.dscale_logit, expected.dscale_logit),
              relative_error(alone.dq, expected.dq), again ? ", dq done again" : "");
  std::fflush(stdout);
}

constexpr Kind kinds[] = {Kind::independent, Kind::parallel,   Kind::rising,  Kind::crossing,
                          Kind::first,       Kind::cancelling, Kind::leaning, Kind::returning};

}  // namespace

TEST_CASE("bf16") {
  for (const Kind kind : kinds) {
    measure<cottention::bfloat16, Scale::none>(kind);
    measure<cottention::bfloat16, Scale::by_key>(kind);
  }
}

TEST_CASE("fp16") {
  for (const Kind kind : kinds) {
    measure<cottention::half, Scale::none>(kind);
    measure<cottention::half, Scale::by_query>(kind);
  }
}
