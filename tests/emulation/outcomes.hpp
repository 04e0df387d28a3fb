// What a kernel with a fault does in every schedule.
#pragma once

#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include <emulation.hpp>

#include "support/catch.hpp"

namespace emulation_test {

/// Of every schedule: what `run()` returns, or the text of its Error.
template <class Run>
std::vector<std::string> in_all_schedules(Run run) {
  std::vector<std::string> all;
  cottention::emulation::for_each_schedule([&](const auto&) {
    try {
      all.push_back(run());
    } catch (const cottention::emulation::Error& error) {
      all.push_back(error.what());
    }
  });
  return all;
}

/// ||found - expected|| / ||expected||; NaN where found has one.
inline double relative_error(const std::vector<float>& found, const std::vector<double>& expected) {
  double error = 0, scale = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    error += std::pow(static_cast<double>(found[i]) - expected[i], 2);
    scale += expected[i] * expected[i];
  }
  return std::sqrt(error / scale);
}

/// Requires that some outcome has all parts in it.
inline void check_reported(const std::vector<std::string>& outcomes, const std::vector<std::string>& parts) {
  bool reported = false;
  for (const std::string& text : outcomes) {
    UNSCOPED_INFO((text.empty() ? "not found" : text));
    bool has_all = true;
    for (const std::string& part : parts) has_all = has_all && text.find(part) != std::string::npos;
    reported = reported || has_all;
  }
  CHECK(reported);
}

}  // namespace emulation_test
