// The model: for each block, x += project(normalise(attention(convolve(normalise(x))))) and x +=
// mlp(normalise(x)); then logits. The normalisation of each head's output keeps it in the range of training
// when a text grows longer. forward and backward for training, step for generation. All memory is allocated
// at construction.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "attention.hpp"
#include "config.hpp"
#include "cosine_attention.hpp"
#include "layers.hpp"
#include "multiply.hpp"
#include "softmax_attention.hpp"
#include "team.hpp"

namespace char_lm {

template <class Real>
class Model {
 public:
  /// `batch` and `seq` bound the shapes of forward and backward. Without `attention`, the CPU computes the
  /// kind that `config` asks for.
  Model(const Config& config, Team& team, std::int64_t batch, std::int64_t seq,
        std::unique_ptr<Attention<Real>> attention = nullptr)
      : parameters(config),
        gradients(config),
        config_(config),
        team_(team),
        multiply_(team),
        attention_(std::move(attention)),
        logits_(buffer(batch * seq * 256)),
        loss_(buffer(batch * seq)),
        last_(batch * seq, config.dim),
        dx_(buffer(batch * seq * config.dim)),
        dnormed_(buffer(batch * seq * config.dim)),
        dmixed_(buffer(batch * seq * config.dim)),
        dqkv_(buffer(batch * seq * 3 * config.dim)),
        dhidden_(buffer(batch * seq * config.hidden())),
        past_(buffer(config.layers * taps * config.dim)) {
    for (std::int64_t l = 0; l < config.layers; ++l) kept_.emplace_back(batch * seq, config);
    if (attention_ != nullptr) return;
    const AttentionShape largest{batch, seq, config.heads, config.head_dim()};
    if (config.attention == AttentionKind::cosine)
      attention_ =
          std::make_unique<CosineAttention<Real>>(team, config.layers, config.heads, config.head_dim());
    else
      attention_ = std::make_unique<SoftmaxAttention<Real>>(team, multiply_, config.layers, largest);
  }

  /// Logits [batch, seq, 256] of the byte after each of bytes[batch, seq].
  std::span<Real> forward(std::int64_t batch, std::int64_t seq, const std::uint8_t* bytes) {
    batch_ = batch, seq_ = seq;
    const std::int64_t rows = batch * seq, dim = config_.dim, hidden = config_.hidden();
    embed(team_, rows, dim, bytes, parameters.embedding, kept_[0].x.data());
    for (std::int64_t l = 0; l < config_.layers; ++l) {
      Kept& kept = at(l);
      normalise(team_, rows, dim, x_epsilon, kept.x.data(), kept.inverse_rms.data(), kept.normed.data());
      convolve(team_, batch, seq, dim, kept.normed.data(), weights(l).convolution, kept.mixed.data());
      multiply_(rows, 3 * dim, dim, {kept.mixed.data(), dim}, {weights(l).qkv, 3 * dim}, kept.qkv.data());
      {
        const Stopwatch stopwatch(team_.profile().attention_seconds);
        attention_->forward(shape(), l, kept.qkv.data(), weights(l).scale_logit, kept.o.data());
      }
      normalise(team_, rows * config_.heads, config_.head_dim(), o_epsilon, kept.o.data(),
                kept.o_inverse_rms.data(), kept.o_normed.data());
      copy(rows * dim, kept.x, kept.middle);
      multiply_(rows, dim, dim, {kept.o_normed.data(), dim}, {weights(l).project, dim}, kept.middle.data(),
                Store::add);
      normalise(team_, rows, dim, x_epsilon, kept.middle.data(), kept.middle_inverse_rms.data(),
                kept.middle_normed.data());
      multiply_(rows, hidden, dim, {kept.middle_normed.data(), dim}, {weights(l).up, hidden},
                kept.hidden.data());
      squared_relu(team_, rows * hidden, kept.hidden.data(), kept.active.data());
      std::vector<Real>& next = l + 1 < config_.layers ? at(l + 1).x : last_.x;
      copy(rows * dim, kept.middle, next);
      multiply_(rows, dim, hidden, {kept.active.data(), hidden}, {weights(l).down, dim}, next.data(),
                Store::add);
    }
    normalise(team_, rows, dim, x_epsilon, last_.x.data(), last_.inverse_rms.data(), last_.normed.data());
    multiply_(rows, 256, dim, {last_.normed.data(), dim}, {parameters.head, 256}, logits_.data());
    return {logits_.data(), static_cast<std::size_t>(rows * 256)};
  }

  enum class Want { loss, gradients };

  /// Mean of -ln p(target) over the bytes of the last forward call. With `gradients`, also backward.
  double loss(const std::uint8_t* bytes, const std::uint8_t* targets, Want want) {
    const std::int64_t rows = batch_ * seq_;
    const Real scale = want == Want::gradients ? 1 / static_cast<Real>(rows) : Real{0};
    cross_entropy(team_, rows, logits_.data(), targets, scale, loss_.data());
    double sum = 0;
    for (std::int64_t i = 0; i < rows; ++i) sum += static_cast<double>(loss_[static_cast<std::size_t>(i)]);
    if (want == Want::gradients) backward(bytes);
    return sum / static_cast<double>(rows);
  }

  /// Begins a sequence of at most `tokens` bytes to be stepped through.
  void start(std::int64_t tokens) {
    attention_->start(tokens);
    position_ = 0;
  }

  /// Logits [256] of the byte after `byte`, the next of that sequence.
  std::span<Real> step(std::uint8_t byte) {
    const std::int64_t dim = config_.dim, hidden = config_.hidden();
    Kept& row = kept_[0];  // the rows of training, of which one is used
    Real* x = row.x.data();
    embed(team_, 1, dim, &byte, parameters.embedding, x);
    for (std::int64_t l = 0; l < config_.layers; ++l) {
      Real* past =
          past_.data() + l * taps * dim;  // the last rows of the convolution's input, the newest last
      const std::int64_t seen = std::min(position_, taps - 1);
      if (position_ >= taps) std::copy(past + dim, past + taps * dim, past);
      normalise(team_, 1, dim, x_epsilon, x, row.inverse_rms.data(), past + seen * dim);
      convolve_last(seen, past, weights(l).convolution, row.mixed.data());
      multiply_(1, 3 * dim, dim, {row.mixed.data(), dim}, {weights(l).qkv, 3 * dim}, row.qkv.data());
      attention_->step(l, row.qkv.data(), weights(l).scale_logit, row.o.data());
      normalise(team_, config_.heads, config_.head_dim(), o_epsilon, row.o.data(), row.o_inverse_rms.data(),
                row.o_normed.data());
      multiply_(1, dim, dim, {row.o_normed.data(), dim}, {weights(l).project, dim}, x, Store::add);
      normalise(team_, 1, dim, x_epsilon, x, row.inverse_rms.data(), row.normed.data());
      multiply_(1, hidden, dim, {row.normed.data(), dim}, {weights(l).up, hidden}, row.hidden.data());
      squared_relu(team_, hidden, row.hidden.data(), row.active.data());
      multiply_(1, dim, hidden, {row.active.data(), hidden}, {weights(l).down, dim}, x, Store::add);
    }
    ++position_;
    normalise(team_, 1, dim, x_epsilon, x, row.inverse_rms.data(), row.normed.data());
    multiply_(1, 256, dim, {row.normed.data(), dim}, {parameters.head, 256}, logits_.data());
    return {logits_.data(), 256};
  }

  const Config& config() const { return config_; }
  Parameters<Real> parameters;
  Parameters<Real> gradients;

 private:
  /// What the backward pass needs of a block.
  struct Kept {
    Kept(std::int64_t rows, const Config& config) : Kept(rows, config.dim) {
      const std::int64_t dim = config.dim;
      mixed = buffer(rows * dim), qkv = buffer(rows * 3 * dim);
      o = buffer(rows * dim), o_inverse_rms = buffer(rows * config.heads), o_normed = buffer(rows * dim);
      middle = buffer(rows * dim), middle_inverse_rms = buffer(rows), middle_normed = buffer(rows * dim);
      hidden = buffer(rows * config.hidden()), active = buffer(rows * config.hidden());
    }
    Kept(std::int64_t rows, std::int64_t dim)
        : x(buffer(rows * dim)), inverse_rms(buffer(rows)), normed(buffer(rows * dim)) {}
    std::vector<Real> x, inverse_rms, normed;  // (rows, dim), (rows), (rows, dim)
    std::vector<Real> mixed, qkv;              // (rows, dim), (rows, 3 dim)
    std::vector<Real> o, o_inverse_rms,
        o_normed;  // (rows, heads, head_dim), (rows, heads), (rows, heads, head_dim)
    std::vector<Real> middle, middle_inverse_rms, middle_normed;  // (rows, dim), (rows), (rows, dim)
    std::vector<Real> hidden, active;                             // (rows, hidden)
  };

  static constexpr Real x_epsilon = Real(1e-6);
  // Early outputs of cosine attention, of one or two tokens, may be near 0: those are not blown up.
  static constexpr Real o_epsilon = Real(1e-2);

  static std::vector<Real> buffer(std::int64_t count) {
    return std::vector<Real>(static_cast<std::size_t>(count));
  }
  Kept& at(std::int64_t layer) { return kept_[static_cast<std::size_t>(layer)]; }
  LayerParameters<Real>& weights(std::int64_t layer) {
    return parameters.layers[static_cast<std::size_t>(layer)];
  }
  AttentionShape shape() const { return {batch_, seq_, config_.heads, config_.head_dim()}; }

  void copy(std::int64_t count, const std::vector<Real>& from, std::vector<Real>& to) const {
    team_.split(count, column_grain, [&](std::int64_t begin, std::int64_t end, int) {
      std::copy(from.begin() + begin, from.begin() + end, to.begin() + begin);
    });
  }

  /// y = convolution at the newest of 1 + seen rows.
  void convolve_last(std::int64_t seen, const Real* rows, const Real* weight, Real* y) const {
    const std::int64_t dim = config_.dim;
    for (std::int64_t j = 0; j < dim; ++j) y[j] = weight[j] * rows[seen * dim + j];
    for (std::int64_t s = 1; s <= seen; ++s)
      for (std::int64_t j = 0; j < dim; ++j) y[j] += weight[s * dim + j] * rows[(seen - s) * dim + j];
  }

  /// y = x w has dx = dy w^T and dw = x^T dy.
  void multiply_backward(std::int64_t in, std::int64_t out, const std::vector<Real>& x, const Real* w,
                         const Real* dy, Real* dw, Real* dx) {
    const std::int64_t rows = batch_ * seq_;
    multiply_(in, out, rows, Matrix<Real>{x.data(), in}.transposed(), {dy, out}, dw);
    multiply_(rows, in, out, {dy, out}, Matrix<Real>{w, out}.transposed(), dx);
  }

  /// Gradients of the mean loss; the logits hold its gradient with respect to them.
  void backward(const std::uint8_t* bytes) {
    const std::int64_t rows = batch_ * seq_, dim = config_.dim, hidden = config_.hidden();
    Real *dx = dx_.data(), *dnormed = dnormed_.data(), *dmixed = dmixed_.data(), *dhidden = dhidden_.data();
    multiply_backward(dim, 256, last_.normed, parameters.head, logits_.data(), gradients.head, dnormed);
    std::fill_n(dx, rows * dim, Real{0});
    normalise_backward(team_, rows, dim, last_.normed.data(), last_.inverse_rms.data(), dnormed, dx);
    for (std::int64_t l = config_.layers - 1; l >= 0; --l) {
      const Kept& kept = at(l);
      const LayerParameters<Real>& w = weights(l);
      LayerParameters<Real>& dw = gradients.layers[static_cast<std::size_t>(l)];
      multiply_backward(hidden, dim, kept.active, w.down, dx, dw.down, dhidden);
      squared_relu_backward(team_, rows * hidden, kept.hidden.data(), dhidden);
      multiply_backward(dim, hidden, kept.middle_normed, w.up, dhidden, dw.up, dnormed);
      normalise_backward(team_, rows, dim, kept.middle_normed.data(), kept.middle_inverse_rms.data(), dnormed,
                         dx);
      multiply_backward(dim, dim, kept.o_normed, w.project, dx, dw.project, dnormed);
      std::fill_n(dmixed, rows * dim, Real{0});
      normalise_backward(team_, rows * config_.heads, config_.head_dim(), kept.o_normed.data(),
                         kept.o_inverse_rms.data(), dnormed, dmixed);
      {
        const Stopwatch stopwatch(team_.profile().attention_seconds);
        attention_->backward(shape(), l, kept.qkv.data(), w.scale_logit, kept.o.data(), dmixed, dqkv_.data(),
                             dw.scale_logit);
      }
      multiply_backward(dim, 3 * dim, kept.mixed, w.qkv, dqkv_.data(), dw.qkv, dmixed);
      convolve_backward(team_, batch_, seq_, dim, kept.normed.data(), w.convolution, dmixed, dnormed,
                        dw.convolution);
      normalise_backward(team_, rows, dim, kept.normed.data(), kept.inverse_rms.data(), dnormed, dx);
    }
    embed_backward(team_, rows, dim, bytes, dx, gradients.embedding);
  }

  Config config_;
  Team& team_;
  Multipliers<Real> multiply_;
  std::unique_ptr<Attention<Real>> attention_;
  std::int64_t batch_ = 0, seq_ = 0;
  std::vector<Kept> kept_;           // a block each
  std::vector<Real> logits_, loss_;  // (batch seq, 256), (batch seq)
  Kept last_;                        // what the logits are made of
  std::vector<Real> dx_, dnormed_, dmixed_, dqkv_, dhidden_;
  std::int64_t position_ = 0;
  std::vector<Real> past_;  // (layers, taps, dim)
};

extern template class Model<float>;  // model.cpp

}  // namespace char_lm
