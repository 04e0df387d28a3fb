// Counts of unmasked keys, and the sigmoid of m that weights follow from.
#pragma once

#include <cmath>
#include <cstdint>

#include <cottention/recurrence.hpp>

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::cpu {

/// 1 / (1 + exp(-x)). The argument of exp is never positive, so nothing overflows.
inline double sigmoid(double x) {
  const double e = std::exp(-std::abs(x));
  return (x < 0 ? e : 1) / (1 + e);
}
/// The derivative of sigmoid. 1 - sigmoid(x) would lose the digits of large x.
inline double sigmoid_slope(double x) { return sigmoid(x) * sigmoid(-x); }

/// The number of nonzero bytes in mask[from, to); to - from where the mask is null.
inline std::int64_t count_unmasked(const std::uint8_t* mask, std::int64_t from, std::int64_t to) {
  if (mask == nullptr) return to - from;
  std::int64_t n = 0;
  for (std::int64_t j = from; j < to; ++j) n += mask[j] != 0;
  return n;
}

using recurrence::Direction;

/// The count n at each position of one sequence, in the order of the walk.
class Counter {
 public:
  Counter() = default;

  /// Causal: n grows with the position. `mask` is in order of position, whatever the direction.
  Counter(const std::uint8_t* mask, std::int64_t length, std::int64_t initial, Direction direction)
      : mask_(mask), length_(length), initial_(initial), direction_(direction) {}

  /// Bidirectional: n is `total` everywhere.
  explicit Counter(std::int64_t total) : initial_(total), everywhere_(true) {}

  /// Makes `row`, in the order of the walk, the next one.
  void seek(std::int64_t row) {
    position_ = direction_ == Direction::forward ? row : length_ - 1 - row;
    const std::int64_t end = direction_ == Direction::forward ? position_ : position_ + 1;
    if (mask_ != nullptr && !everywhere_) running_ = initial_ + count_unmasked(mask_, 0, end);
  }

  /// Writes the counts of the next `count` rows to n, (count).
  void next(int count, double* n) {
    const std::int64_t step = direction_ == Direction::forward ? 1 : -1;
    if (everywhere_) {
      for (int r = 0; r < count; ++r) n[r] = static_cast<double>(initial_);
    } else if (mask_ == nullptr) {
      for (int r = 0; r < count; ++r) n[r] = static_cast<double>(initial_ + position_ + 1 + r * step);
    } else {
      for (int r = 0; r < count; ++r) {
        const std::int64_t here = mask_[position_ + r * step] != 0;
        if (direction_ == Direction::forward) running_ += here;
        n[r] = static_cast<double>(running_);
        if (direction_ == Direction::reverse) running_ -= here;
      }
    }
    position_ += count * step;
  }

 private:
  const std::uint8_t* mask_ = nullptr;
  std::int64_t length_ = 0;
  std::int64_t initial_ = 0;
  std::int64_t position_ = 0;
  std::int64_t running_ = 0;
  Direction direction_ = Direction::forward;
  bool everywhere_ = false;
};

}  // namespace cottention::cpu

#if defined(__clang__)
#pragma float_control(pop)
#endif
