// How far a result is from the reference, and how far it may be.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <cottention/element.hpp>

namespace support {

/// Relative RMS errors that a result may have, at every length: docs/math.md, "Accuracy".
struct Bounds {
  double forward, state, gradient;
};

template <cottention::Element T>
inline constexpr Bounds bounds = std::same_as<T, double>             ? Bounds{1e-14, 1e-14, 1e-13}
                                 : std::same_as<T, float>            ? Bounds{1e-6, 1e-6, 3e-6}
                                 : std::same_as<T, cottention::half> ? Bounds{4e-4, 2e-4, 1e-3}
                                                                     : Bounds{3e-3, 1.5e-3, 6e-3};

/// ||x - expected|| / ||expected||. Infinite when sizes differ, when anything is not finite, and when only
/// zeros are expected but something else is found.
double relative_error(const std::vector<double>& x, const std::vector<double>& expected);

/// Whether rows of `width` values are exactly 0 wherever `mask`, one byte per row, is. A null mask masks
/// nothing.
inline bool zero_where_masked(const std::vector<double>& x, const std::uint8_t* mask, std::int64_t width) {
  if (mask == nullptr) return true;
  for (std::size_t i = 0; i < x.size(); ++i)
    if (mask[i / static_cast<std::size_t>(width)] == 0 && x[i] != 0) return false;
  return true;
}

}  // namespace support
