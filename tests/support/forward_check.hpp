// Checks the result of a forward call against the reference, whichever backend made it.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <cottention/reference.hpp>

#include "support/catch.hpp"
#include "support/compare.hpp"
#include "support/error.hpp"
#include "support/oracle.hpp"
#include "support/problem_generator.hpp"

namespace support {

enum class FinalState {
  separate,
  in_place,  ///< the memory of the initial state
  absent,
};

template <class T>
std::vector<double> values_of(const Buffer<T>& buffer) {
  return {buffer.data(), buffer.data() + buffer.count()};
}

/// ||x|| of every row.
template <cottention::Element T>
std::vector<double> norms_of(const TensorBuffer<T>& x) {
  std::vector<double> norms;
  for (std::int64_t row = 0; row < x.positions() * x.heads(); ++row) {
    long double sum = 0;
    for (std::int64_t d = 0; d < x.dim(); ++d) {
      const long double value = cottention::to_double(x.row(row / x.heads(), row % x.heads())[d]);
      sum += value * value;
    }
    norms.push_back(static_cast<double>(std::sqrt(sum)));
  }
  return norms;
}

/// Rows times the length that they share with their operand, so that rows of all magnitudes count the same in
/// an error: `exponent` 1 for gradients of norm(x), which fall with max(||x||, eps), and -1 for results that
/// rise with ||norm(x)||. Masked rows and rows of zeros stay.
inline void level(std::vector<double>& rows, const std::vector<double>& norms, int exponent) {
  const std::size_t width = norms.empty() ? 1 : rows.size() / norms.size();
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const double norm = norms[i / width];
    if (!std::isfinite(norm)) continue;
    if (exponent == 1) rows[i] *= std::fmax(norm, cottention::norm_epsilon);
    if (exponent == -1 && norm > 0) rows[i] /= std::fmin(norm / cottention::norm_epsilon, 1);
  }
}

/// The reference, in linear time where the sequence is long.
template <cottention::Element T>
Output expected_output(const Case& c, const cottention::ForwardArguments<T>& args) {
  return args.shape.seq_k > 128 ? recurrence(c.mask, c.scale, args) : definition(c.mask, c.scale, args);
}

/// Checks a forward result against the reference, by the bounds of T.
template <cottention::Element T>
void check_output(Inputs<T>& inputs, Output got, Output expected) {
  const cottention::ForwardArguments<T> args = inputs.forward();
  CHECK(relative_error(got.o, expected.o) <= bounds<T>.forward);
  CHECK(relative_error(got.h, expected.h) <= bounds<T>.state);
  CHECK(got.count == expected.count);
  CHECK(zero_where_masked(got.o, args.query_mask, args.shape.heads_q * args.shape.dim_v));
  if (inputs.description().rows != Rows::mixed) return;
  for (Output* x : {&got, &expected}) level(x->o, norms_of(inputs.q()), -1);
  CHECK(relative_error(got.o, expected.o) <= bounds<T>.forward);
}

template <cottention::Element T>
void check_output(Inputs<T>& inputs, const Output& got) {
  check_output(inputs, got, expected_output(inputs.description(), inputs.forward()));
}

}  // namespace support
