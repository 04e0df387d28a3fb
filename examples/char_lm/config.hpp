// The sizes of the model and where its parameters lie.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "layers.hpp"

namespace char_lm {

enum class AttentionKind { cosine, softmax };

constexpr const char* to_string(AttentionKind kind) {
  return kind == AttentionKind::cosine ? "cosine" : "softmax";
}

struct Config {
  AttentionKind attention = AttentionKind::cosine;
  std::int64_t layers = 4;
  std::int64_t dim = 96;
  std::int64_t heads = 6;

  std::int64_t head_dim() const { return dim / heads; }
  std::int64_t hidden() const { return 4 * dim; }
};

template <class Real>
struct LayerParameters {
  Real* convolution;  // (taps, dim)
  Real* qkv;          // (dim, 3 dim): q, k, v, each [heads, head_dim]
  Real* scale_logit;  // (heads), m of cosine attention; absent from its twin
  Real* project;      // (dim, dim)
  Real* up;           // (dim, hidden)
  Real* down;         // (hidden, dim)
};

/// All parameters, or their gradients, in one array.
template <class Real>
class Parameters {
 public:
  explicit Parameters(const Config& config) : config_(config) {
    const std::int64_t dim = config.dim;
    const std::int64_t m = config.attention == AttentionKind::cosine ? config.heads : 0;
    const std::int64_t layer = taps * dim + dim * 3 * dim + dim * dim + 2 * dim * config.hidden() + m;
    values.resize(static_cast<std::size_t>(2 * 256 * dim + config.layers * layer));
    Real* next = values.data();
    const auto take = [&next](std::int64_t count) {
      Real* here = next;
      next += count;
      return here;
    };
    embedding = take(256 * dim);
    head = take(256 * dim);
    for (std::int64_t l = 0; l < config.layers; ++l) {
      LayerParameters<Real> p{};
      p.convolution = take(taps * dim);
      p.qkv = take(dim * 3 * dim);
      p.project = take(dim * dim);
      p.up = take(dim * config.hidden());
      p.down = take(config.hidden() * dim);
      p.scale_logit = take(m);
      layers.push_back(p);
    }
  }
  Parameters(const Parameters&) = delete;
  Parameters& operator=(const Parameters&) = delete;

  /// Matrices from a normal distribution of deviation 1 / sqrt(rows); those that add to the residual stream
  /// begin smaller, so that it starts out as the embedding. m begins at the 0.5 of the published models.
  void initialise(std::uint64_t seed, double residual_gain = 0.1, double head_gain = 0.1) {
    std::mt19937_64 random(seed);
    const auto fill = [&random](Real* at, std::int64_t count, double deviation) {
      std::normal_distribution<double> normal(0.0, deviation);
      for (std::int64_t i = 0; i < count; ++i) at[i] = static_cast<Real>(normal(random));
    };
    const std::int64_t dim = config_.dim;
    const double by_dim = 1 / std::sqrt(static_cast<double>(dim));
    const double by_hidden = 1 / std::sqrt(static_cast<double>(config_.hidden()));
    fill(embedding, 256 * dim, 1.0);
    fill(head, dim * 256, head_gain * by_dim);
    for (const LayerParameters<Real>& p : layers) {
      fill(p.convolution, taps * dim, 0.3);
      for (std::int64_t j = 0; j < dim; ++j) p.convolution[j] += 1;
      fill(p.qkv, dim * 3 * dim, by_dim);
      fill(p.project, dim * dim, residual_gain * by_dim);
      fill(p.up, dim * config_.hidden(), by_dim);
      fill(p.down, config_.hidden() * dim, residual_gain * by_hidden);
      if (config_.attention == AttentionKind::cosine) std::fill_n(p.scale_logit, config_.heads, Real(0.5));
    }
  }

  std::vector<Real> values;
  Real* embedding;  // (256, dim)
  Real* head;       // (dim, 256)
  std::vector<LayerParameters<Real>> layers;

 private:
  Config config_;
};

}  // namespace char_lm
