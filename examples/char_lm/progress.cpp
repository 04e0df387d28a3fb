#include "progress.hpp"

#include <unistd.h>

#include <cstdio>
#include <string>

namespace char_lm {

bool output_is_terminal() { return isatty(STDOUT_FILENO) == 1; }

Progress::Progress(std::int64_t steps, std::int64_t bytes_per_step)
    : steps_(steps), bytes_per_step_(bytes_per_step), terminal_(output_is_terminal()) {}

void Progress::show(std::int64_t done, double training_loss, double held_out_loss) {
  constexpr auto redraw_every = std::chrono::milliseconds(100);
  constexpr std::int64_t line_every = 5;  // percent
  const Clock::time_point now = Clock::now();
  const std::int64_t percent = done * 100 / steps_;
  const bool last = done == steps_;
  if (terminal_ ? now - drawn_ < redraw_every && !last
                : percent / line_every == percent_shown_ / line_every && percent_shown_ >= 0)
    return;
  drawn_ = now;
  percent_shown_ = percent;

  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double bytes_per_second = static_cast<double>(done * bytes_per_step_) / seconds;
  const double left = seconds / static_cast<double>(done) * static_cast<double>(steps_ - done);
  char text[128];
  std::snprintf(text, sizeof text, "%3d%%  bits per byte %.3f, held out %.3f  %.0f kB/s  %.0f s left",
                static_cast<int>(percent), training_loss, held_out_loss, bytes_per_second / 1000, left);
  if (!terminal_) {
    std::printf("%s\n", text);
  } else {
    constexpr std::int64_t width = 10;  // the line fits 80 columns
    const auto filled = static_cast<std::size_t>(done * width / steps_);
    const std::string bar = std::string(filled, '#') + std::string(width - filled, '.');
    std::printf("\r[%s] %s\033[K%s", bar.c_str(), text, last ? "\n" : "");
  }
  std::fflush(stdout);
}

}  // namespace char_lm
