// The text: a part to train on, the rest held out.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

namespace char_lm {

/// Sequences of bytes and, for each byte, the one that follows it: [batch, context].
struct Batch {
  Batch(std::int64_t batch, std::int64_t context)
      : bytes(static_cast<std::size_t>(batch * context)), targets(bytes.size()) {}
  std::vector<std::uint8_t> bytes, targets;
};

class Text {
 public:
  /// Reads a file; the last tenth is held out, or more of a short text, so that it holds a whole context.
  /// Throws BadInput.
  Text(const std::string& path, std::int64_t context);

  std::span<const std::uint8_t> training() const { return std::span(bytes_).first(split_); }
  std::span<const std::uint8_t> held_out() const { return std::span(bytes_).subspan(split_); }
  std::size_t size() const { return bytes_.size(); }

  /// Fills a batch with sequences from random places of the training part.
  void sample(std::mt19937_64& random, Batch& batch) const;

  /// Fills a batch with held-out sequences first, first + 1, ... of those that do not overlap; past the last
  /// one it begins again.
  void take_held_out(std::int64_t first, Batch& batch) const;
  std::int64_t held_out_sequences() const;

  /// The beginning of a line of the held-out text, up to the end of a word.
  std::string prompt() const;

 private:
  void copy(std::span<const std::uint8_t> from, std::size_t start, std::size_t sequence, Batch& batch) const;

  std::size_t context_;
  std::vector<std::uint8_t> bytes_;
  std::size_t split_ = 0;
};

}  // namespace char_lm
