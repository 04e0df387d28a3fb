// What the examples share: random inputs, a check of statuses, and the error against the reference.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include <cottention/element.hpp>
#include <cottention/status.hpp>

/// Normally distributed elements.
template <cottention::Element T>
std::vector<T> random_tensor(std::int64_t elements, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<T> x(static_cast<std::size_t>(elements));
  for (T& e : x) e = T(normal(random));
  return x;
}

/// Ends the program with exit code 1 unless the call succeeded.
inline void check(const cottention::CallStatus& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.reason);
  std::exit(1);
}

/// Sums ||x - expected|| / ||expected|| over any number of tensors.
class RelativeError {
 public:
  template <cottention::Element T>
  void add(const std::vector<T>& x, const std::vector<double>& expected) {
    for (std::size_t i = 0; i < expected.size(); ++i) {
      difference_ += std::pow(cottention::to_double(x[i]) - expected[i], 2);
      size_ += std::pow(expected[i], 2);
    }
  }
  double value() const { return std::sqrt(difference_ / size_); }

 private:
  double difference_ = 0, size_ = 0;
};
