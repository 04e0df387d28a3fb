#include "self_test.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "model.hpp"

namespace char_lm {
namespace {

constexpr std::int64_t batch = 2, seq = 51;  // more than one chunk or block of queries
// Steps of central differences of a loss near 5, in double: rounding costs 5 * 1.1e-16 / step, truncation
// grows as step^2. m, whose derivatives are small and smooth, is given a larger one.
constexpr double weight_step = 0x1p-16, scale_logit_step = 0x1p-13;
constexpr double bound = 1e-7;  // relative, on the norm of each kind of parameter

struct Check {
  Model<double>& model;
  std::vector<std::uint8_t> bytes, targets;

  double loss() {
    model.forward(batch, seq, bytes.data());
    return model.loss(bytes.data(), targets.data(), Model<double>::Want::loss);
  }

  /// Compares up to 60 of `count` derivatives, spread over all of them.
  bool kind(const char* name, double* parameter, const double* gradient, std::int64_t count,
            double step = weight_step) {
    double error = 0, size = 0;
    const std::int64_t stride = std::max<std::int64_t>(1, count / 60);
    for (std::int64_t i = 0; i < count; i += stride) {
      const double value = parameter[i];
      parameter[i] = value + step;
      const double above = loss();
      parameter[i] = value - step;
      const double below = loss();
      parameter[i] = value;
      const double difference = (above - below) / (2 * step);
      error += (difference - gradient[i]) * (difference - gradient[i]);
      size += difference * difference;
    }
    const bool good = size > 0 && std::sqrt(error / size) < bound;  // NaN is not good
    std::printf("  %-12s %9.1e  %s\n", name, std::sqrt(error / size), good ? "ok" : "WRONG");
    return good;
  }
};

}  // namespace

bool self_test(AttentionKind attention, int threads) {
  const Config config{.attention = attention, .layers = 2, .dim = 24, .heads = 3};
  Team team(threads);
  Model<double> model(config, team, batch, seq);
  model.parameters.initialise(1, 1.0, 1.0);
  Check check{model, {}, {}};
  std::mt19937_64 random(2);
  for (std::int64_t i = 0; i < batch * seq; ++i) {
    check.bytes.push_back(
        static_cast<std::uint8_t>(random() % 4));  // few, so that each embedding is used often
    check.targets.push_back(static_cast<std::uint8_t>(random() % 256));
  }
  model.forward(batch, seq, check.bytes.data());
  model.loss(check.bytes.data(), check.targets.data(), Model<double>::Want::gradients);

  std::printf("%s attention: gradients against finite differences, relative error below %.0e\n",
              to_string(attention), bound);
  const std::int64_t dim = config.dim;
  Parameters<double>&p = model.parameters, &g = model.gradients;
  bool good = check.kind("embedding", p.embedding, g.embedding, 4 * dim);
  good &= check.kind("head", p.head, g.head, 256 * dim);
  for (std::size_t l = 0; l < p.layers.size(); ++l) {
    LayerParameters<double>&pl = p.layers[l], &gl = g.layers[l];
    good &= check.kind("convolution", pl.convolution, gl.convolution, taps * dim);
    good &= check.kind("qkv", pl.qkv, gl.qkv, dim * 3 * dim);
    good &= check.kind("project", pl.project, gl.project, dim * dim);
    good &= check.kind("up", pl.up, gl.up, dim * config.hidden());
    good &= check.kind("down", pl.down, gl.down, config.hidden() * dim);
    if (attention == AttentionKind::cosine)
      good &= check.kind("scale_logit", pl.scale_logit, gl.scale_logit, config.heads, scale_logit_step);
  }
  return good;
}

}  // namespace char_lm
