// Generation, byte by byte, and the proof that it computes what training computed.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "model.hpp"
#include "options.hpp"

namespace char_lm {

struct Generation {
  std::int64_t bytes;  // prompt and generated
  double bytes_per_second;
  std::string text;  // prompt and generated, as it is
};

/// Prints the prompt and its continuation.
Generation generate(const Options& options, const std::string& prompt, Model<float>& model);

/// The logits of one parallel forward against those of stepping over the same text.
struct Agreement {
  std::int64_t bytes;
  double largest;   // largest difference
  double relative;  // ||difference|| / ||logits||
};

/// fp32 rounding that passes through every layer of the model twice, in two orders: measured at 1e-6.
inline constexpr double agreement_bound = 1e-5;

Agreement compare(std::span<const std::uint8_t> text, Model<float>& model);

/// What generation must remember at a length, in bytes of fp32.
std::int64_t cosine_state_bytes(const Config& config);
std::int64_t softmax_cache_bytes(const Config& config, std::int64_t length);
std::int64_t convolution_bytes(const Config& config);

}  // namespace char_lm
