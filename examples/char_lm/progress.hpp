// Progress on standard output: one line that redraws in a terminal, plain lines elsewhere.
#pragma once

#include <chrono>
#include <cstdint>

namespace char_lm {

class Progress {
 public:
  Progress(std::int64_t steps, std::int64_t bytes_per_step);

  /// After `done` steps; losses in bits per byte.
  void show(std::int64_t done, double training_loss, double held_out_loss);

 private:
  using Clock = std::chrono::steady_clock;

  std::int64_t steps_, bytes_per_step_;
  bool terminal_;
  Clock::time_point start_ = Clock::now(), drawn_ = start_;
  std::int64_t percent_shown_ = -1;
};

/// Whether standard output is a terminal.
bool output_is_terminal();

}  // namespace char_lm
