#include "generate.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "progress.hpp"

namespace char_lm {
namespace {

/// Draws from softmax(logits / temperature), cut to the likeliest bytes that together hold probability top_p.
std::uint8_t sample(std::span<const float> logits, double temperature, double top_p,
                    std::mt19937_64& random) {
  std::array<std::uint8_t, 256> order;
  std::iota(order.begin(), order.end(), std::uint8_t{0});
  std::sort(order.begin(), order.end(), [&](std::uint8_t a, std::uint8_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  if (temperature == 0) return order[0];
  std::array<double, 256> p;
  const double largest = static_cast<double>(logits[order[0]]);
  for (std::size_t i = 0; i < 256; ++i)
    p[i] = std::exp((static_cast<double>(logits[order[i]]) - largest) / temperature);
  const double all = std::accumulate(p.begin(), p.end(), 0.0);
  std::size_t kept = 0;
  double sum = 0;
  while (kept < 256 && (kept == 0 || sum < top_p * all)) sum += p[kept++];
  double left = std::uniform_real_distribution<double>(0, sum)(random);
  for (std::size_t i = 0; i < kept; ++i)
    if ((left -= p[i]) < 0) return order[i];
  return order[kept - 1];
}

/// Control characters could do anything to a terminal.
void print(std::uint8_t byte) {
  const bool control = (byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7f;
  std::putchar(control ? '.' : byte);
}

}  // namespace

Generation generate(const Options& options, const std::string& prompt, Model<float>& model) {
  const bool terminal = output_is_terminal();
  std::mt19937_64 random(options.seed + 1);
  const auto length = static_cast<std::int64_t>(prompt.size()) + options.generate;
  std::string text = prompt;
  model.start(length);
  std::span<float> logits;
  if (terminal) std::printf("\033[1m");
  for (const char c : prompt) {
    logits = model.step(static_cast<std::uint8_t>(c));
    print(static_cast<std::uint8_t>(c));
  }
  if (terminal) std::printf("\033[0m");
  double seconds = 0;
  for (std::int64_t i = 0; i < options.generate; ++i) {
    {
      const Stopwatch stopwatch(seconds);
      const std::uint8_t byte = sample(logits, options.temperature, options.top_p, random);
      print(byte);
      text += static_cast<char>(byte);
      logits = model.step(byte);
    }
    if (terminal && i % 8 == 7) std::fflush(stdout);
  }
  std::printf("\n");
  return {length, options.generate > 0 ? static_cast<double>(options.generate) / seconds : 0.0,
          std::move(text)};
}

Agreement compare(std::span<const std::uint8_t> text, Model<float>& model) {
  const auto length = static_cast<std::int64_t>(text.size());
  const std::span<const float> parallel_view = model.forward(1, length, text.data());
  const std::vector<float> parallel(parallel_view.begin(), parallel_view.end());
  model.start(length);
  double largest = 0, difference = 0, size = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const std::span<const float> logits = model.step(text[i]);
    for (std::size_t c = 0; c < 256; ++c) {
      const double expected = static_cast<double>(parallel[i * 256 + c]);
      const double d = static_cast<double>(logits[c]) - expected;
      if (!(std::abs(d) <= largest)) largest = std::abs(d);  // NaN is kept too
      difference += d * d;
      size += expected * expected;
    }
  }
  return {length, largest, std::sqrt(difference / size)};
}

std::int64_t cosine_state_bytes(const Config& config) {
  const std::int64_t h = config.heads * config.head_dim() * config.head_dim();
  return config.layers * (h * std::int64_t{sizeof(float)} + std::int64_t{sizeof(std::int64_t)});
}

std::int64_t softmax_cache_bytes(const Config& config, std::int64_t length) {
  return config.layers * length * 2 * config.dim * std::int64_t{sizeof(float)};
}

std::int64_t convolution_bytes(const Config& config) {
  return config.layers * taps * config.dim * std::int64_t{sizeof(float)};
}

}  // namespace char_lm
