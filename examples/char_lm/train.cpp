#include "train.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <numbers>
#include <random>
#include <stdexcept>
#include <vector>

#include "progress.hpp"

namespace char_lm {
namespace {

constexpr double peak_rate = 0.04;      // over sqrt(dim)
constexpr double last_rate = 0.05;      // of the peak
constexpr double warm_up = 0.05;        // of the steps
constexpr double largest_gradient = 1;  // norm, clipped beyond

class Adam {
 public:
  explicit Adam(std::size_t parameters) : mean_(parameters), square_(parameters) {}

  void update(Team& team, std::vector<float>& parameters, const std::vector<float>& gradients, double rate) {
    ++updates_;
    const float clip = static_cast<float>(std::min(1.0, largest_gradient / norm(gradients)));
    const double mean_left = 1 - std::pow(mean_decay, updates_),
                 square_left = 1 - std::pow(square_decay, updates_);
    const float step = static_cast<float>(rate / mean_left);
    const float inverse_square_left = static_cast<float>(1 / square_left);
    team.split(static_cast<std::int64_t>(parameters.size()), 4096,
               [&](std::int64_t begin, std::int64_t end, int) {
                 float *p = parameters.data(), *m = mean_.data(), *v = square_.data();
                 const float* gradient = gradients.data();
                 for (std::int64_t i = begin; i < end; ++i) {
                   const float g = gradient[i] * clip;
                   m[i] += static_cast<float>(1 - mean_decay) * (g - m[i]);
                   v[i] += static_cast<float>(1 - square_decay) * (g * g - v[i]);
                   p[i] -= step * m[i] / (std::sqrt(v[i] * inverse_square_left) + 1e-8f);
                 }
               });
  }

 private:
  static constexpr double mean_decay = 0.9, square_decay = 0.99;

  static double norm(const std::vector<float>& x) {
    double squares = 0;
#pragma omp simd reduction(+ : squares)
    for (std::size_t i = 0; i < x.size(); ++i)
      squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    return std::sqrt(squares);
  }

  std::vector<float> mean_, square_;
  int updates_ = 0;
};

/// A rise from 0 over the warm-up, then half a cosine down.
double rate(std::int64_t step, const Options& options) {
  const double peak = peak_rate / std::sqrt(static_cast<double>(options.model.dim));
  const double done = (static_cast<double>(step) + 1) / static_cast<double>(options.steps);
  if (done < warm_up) return peak * done / warm_up;
  const double fall = (1 + std::cos(std::numbers::pi * (done - warm_up) / (1 - warm_up))) / 2;
  return peak * (last_rate + (1 - last_rate) * fall);
}

constexpr double bits(double nats) { return nats / std::numbers::ln2; }

/// Bits per byte of up to `batches` batches of held-out text, spread over all of it.
double held_out_loss(const Text& text, Model<float>& model, const Options& options, Batch& batch,
                     std::int64_t batches) {
  const std::int64_t all = (text.held_out_sequences() + options.batch - 1) / options.batch;
  batches = std::min(batches, all);
  double sum = 0;
  for (std::int64_t b = 0; b < batches; ++b) {
    text.take_held_out(all * b / batches * options.batch, batch);
    model.forward(options.batch, options.context, batch.bytes.data());
    sum += model.loss(batch.bytes.data(), batch.targets.data(), Model<float>::Want::loss);
  }
  return bits(sum / static_cast<double>(batches));
}

}  // namespace

Training train(const Options& options, const Text& text, Team& team, Model<float>& model) {
  constexpr std::int64_t batches_on_the_way = 2, batches_at_the_ends = 64, evaluations = 20;
  std::ofstream curve;
  if (!options.save_loss.empty()) {
    curve.open(options.save_loss);
    if (!curve) throw BadInput("--save-loss = '" + options.save_loss + "': cannot be written");
    curve << "step,training_bits_per_byte,held_out_bits_per_byte\n";
  }
  Adam adam(model.parameters.values.size());
  Batch batch(options.batch, options.context), held_out(options.batch, options.context);
  std::mt19937_64 random(options.seed);

  Training result{};
  result.first_loss = held_out_loss(text, model, options, held_out, batches_at_the_ends);
  double shown = result.first_loss, smooth = 0, weight = 0;
  Progress progress(options.steps, options.batch * options.context);
  const std::int64_t evaluate_every = std::max<std::int64_t>(1, options.steps / evaluations);
  team.profile() = {};
  for (std::int64_t step = 0; step < options.steps; ++step) {
    double loss = 0;
    {
      const Stopwatch stopwatch(result.seconds);
      text.sample(random, batch);
      model.forward(options.batch, options.context, batch.bytes.data());
      loss = bits(model.loss(batch.bytes.data(), batch.targets.data(), Model<float>::Want::gradients));
      if (!std::isfinite(loss))
        throw std::runtime_error("the loss is not finite at step " + std::to_string(step + 1));
      adam.update(team, model.parameters.values, model.gradients.values, rate(step, options));
    }
    smooth = 0.95 * smooth + loss, weight = 0.95 * weight + 1;
    if (curve) curve << step + 1 << ',' << loss << ',';
    if ((step + 1) % evaluate_every == 0) {
      const Profile training_alone = team.profile();
      shown = held_out_loss(text, model, options, held_out, batches_on_the_way);
      team.profile() = training_alone;
      if (curve) curve << shown;
    }
    if (curve) curve << '\n';
    progress.show(step + 1, smooth / weight, shown);
  }
  result.profile = team.profile();
  if (curve.is_open() && !curve.flush())
    throw std::runtime_error("'" + options.save_loss + "': could not be written");
  result.last_loss = held_out_loss(text, model, options, held_out, batches_at_the_ends);
  return result;
}

}  // namespace char_lm
