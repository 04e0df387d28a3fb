// Results bit for bit, where NaN has spread to, and one sequence's share of a batch's.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include <cottention/reference.hpp>

#include "support/catch.hpp"
#include "support/error.hpp"
#include "support/part.hpp"
#include "support/problem_generator.hpp"

namespace support {

using cottention::reference::Gradient, cottention::reference::Output;

inline bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0);
}

inline bool same_bits(const Output& a, const Output& b) {
  return same_bits(a.o, b.o) && same_bits(a.h, b.h) && a.count == b.count;
}

inline bool same_bits(const Gradient& a, const Gradient& b) {
  return same_bits(a.dq, b.dq) && same_bits(a.dk, b.dk) && same_bits(a.dv, b.dv) &&
         same_bits(a.dscale_logit, b.dscale_logit) && same_bits(a.dinitial_state, b.dinitial_state);
}

/// Checks that rows of `width` values hold NaN or infinity exactly where the reference's do, and that all
/// others are within `bound`.
inline void check_spread(const std::vector<double>& got, const std::vector<double>& expected,
                         std::int64_t width, double bound) {
  std::vector<double> clean_got, clean_expected;
  bool spread_alike = got.size() == expected.size();
  for (auto row = static_cast<std::ptrdiff_t>(0); row < std::ssize(expected) && spread_alike; row += width) {
    const auto clean = [&](const std::vector<double>& x) {
      return std::all_of(x.begin() + row, x.begin() + row + width,
                         [](double value) { return std::isfinite(value); });
    };
    spread_alike = clean(got) == clean(expected);
    if (!clean(expected)) continue;
    clean_got.insert(clean_got.end(), got.begin() + row, got.begin() + row + width);
    clean_expected.insert(clean_expected.end(), expected.begin() + row, expected.begin() + row + width);
  }
  CHECK(spread_alike);
  CHECK(relative_error(clean_got, clean_expected) <= bound);
}

/// Sequence b of a result that has one row of `width` values for each position.
template <cottention::Element T>
std::vector<double> sequence_rows(const std::vector<double>& x, const Inputs<T>& inputs, std::int64_t b,
                                  bool query_side, std::int64_t width) {
  const std::int64_t begin = query_side ? inputs.start_q(b) : inputs.start_k(b);
  return rows_of(x, {begin, begin + (query_side ? inputs.length_q(b) : inputs.length_k(b))}, width);
}

template <cottention::Element T>
Output sequence_of(const Output& out, const Inputs<T>& inputs, std::int64_t b) {
  const cottention::Shape& s = inputs.shape();
  return {.o = sequence_rows(out.o, inputs, b, true, s.heads_q * s.dim_v),
          .h = rows_of(out.h, {b, b + 1}, s.heads_kv * s.dim_qk * s.dim_v),
          .count = {out.count.data()[b]}};
}

/// Without dscale_logit, which is a sum over sequences.
template <cottention::Element T>
Gradient sequence_of(const Gradient& out, const Inputs<T>& inputs, std::int64_t b) {
  const cottention::Shape& s = inputs.shape();
  return {.dq = sequence_rows(out.dq, inputs, b, true, s.heads_q * s.dim_qk),
          .dk = sequence_rows(out.dk, inputs, b, false, s.heads_kv * s.dim_qk),
          .dv = sequence_rows(out.dv, inputs, b, false, s.heads_kv * s.dim_v),
          .dscale_logit = {},
          .dinitial_state = rows_of(out.dinitial_state, {b, b + 1}, s.heads_kv * s.dim_qk * s.dim_v)};
}

}  // namespace support
