// What tests do with every number of their inputs and results: compiled once, and optimised.
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "support/error.hpp"
#include "support/random.hpp"

namespace support {

double Random::normal() {
  if (has_second_) {
    has_second_ = false;
    return second_;
  }
  double x, y, square;
  do {
    x = 2 * uniform() - 1;
    y = 2 * uniform() - 1;
    square = x * x + y * y;
  } while (square >= 1 || square == 0);
  const double factor = std::sqrt(-2 * std::log(square) / square);
  has_second_ = true;
  second_ = y * factor;
  return x * factor;
}

double relative_error(const std::vector<double>& x, const std::vector<double>& expected) {
  constexpr double never = std::numeric_limits<double>::infinity();
  if (x.size() != expected.size()) return never;
  // Scaled by the largest value, so that squares of values beyond 1e154 or below 1e-154 count.
  double largest = 0;
  for (const double value : expected)
    if (std::fabs(value) > largest) largest = std::fabs(value);
  const double scale = largest > 0 ? largest : 1;
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (!std::isfinite(x[i]) || !std::isfinite(expected[i])) return never;
    const double of_x = (x[i] - expected[i]) / scale, of_expected = expected[i] / scale;
    difference += of_x * of_x;
    norm += of_expected * of_expected;
  }
  if (norm == 0) return difference == 0 ? 0 : never;
  return std::sqrt(difference / norm);
}

}  // namespace support
