// Checks the result of a backward call against the reference, whichever backend made it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include <cottention/reference.hpp>

#include "support/catch.hpp"
#include "support/compare.hpp"
#include "support/error.hpp"
#include "support/forward_check.hpp"
#include "support/oracle.hpp"
#include "support/problem_generator.hpp"

namespace support {

/// What dscale_logit is measured against: the larger of itself and the root of the sum of its terms' squares,
/// for each head. Its terms have either sign. Now and then they cancel far below what as many random numbers
/// sum to, and then even the rounding of their factors is not small against what is left. With keys scaled,
/// term j is sigmoid'(m) ln(max(n_j, 1)) (v_j . dv_j), with queries sigmoid'(m) ln(max(n_i, 1)) (o_i .
/// dout_i).
template <cottention::Element T>
std::vector<double> size_of_dscale_logit(Inputs<T>& inputs, const Gradient& expected) {
  const Case& c = inputs.description();
  const cottention::BackwardArguments<T> args = inputs.backward();
  const cottention::Shape& s = args.shape;
  std::vector<double> size = expected.dscale_logit;
  if (c.scale == cottention::Scale::none) return size;

  const bool by_key = c.scale == cottention::Scale::by_key;
  const auto keys = cottention::reference::key_positions(args),
             queries = cottention::reference::query_positions(args);
  const auto& positions = by_key ? keys : queries;
  const std::vector<double> x = by_key ? inputs.v().values() : expected_output(c, inputs.forward()).o;
  const std::vector<double> dx = by_key ? expected.dv : inputs.dout().values();
  const std::int64_t heads = by_key ? s.heads_kv : s.heads_q;
  for (std::int64_t h_kv = 0; h_kv < s.heads_kv; ++h_kv) {
    const double slope = cottention::reference::sigmoid_slope(static_cast<double>(args.scale_logit[h_kv]));
    double squares = 0;
    for (std::int64_t b = 0; b < s.batch; ++b) {
      std::int64_t n = args.initial_state.count == nullptr ? 0 : args.initial_state.count[b];
      if (c.mask == cottention::Mask::bidirectional)
        for (std::int64_t j = 0; j < keys.length(b); ++j) n += keys.valid(b, j);
      for (std::int64_t i = 0; i < positions.length(b); ++i) {
        if (c.mask == cottention::Mask::causal) n += keys.valid(b, i);
        if (!positions.valid(b, i)) continue;
        for (std::int64_t h = h_kv * heads / s.heads_kv; h < (h_kv + 1) * heads / s.heads_kv; ++h) {
          const std::int64_t row = (positions.index(b, i) * heads + h) * s.dim_v;
          const double term = std::log(static_cast<double>(std::max<std::int64_t>(n, 1))) *
                              cottention::reference::dot(x.data() + row, dx.data() + row, s.dim_v);
          squares += term * term;
        }
      }
    }
    double& value = size.data()[h_kv];
    value = std::fmax(std::fabs(value), slope * std::sqrt(squares));
  }
  return size;
}

/// ||x - expected|| / ||size||
inline double relative_error(const std::vector<double>& x, const std::vector<double>& expected,
                             const std::vector<double>& size) {
  if (x.size() != expected.size() || size.size() != expected.size())
    return std::numeric_limits<double>::infinity();
  std::vector<double> moved = size;
  for (std::size_t i = 0; i < size.size(); ++i) moved[i] += x[i] - expected[i];
  return relative_error(moved, size);
}

/// Checks gradients against the reference, by the bounds of T.
template <cottention::Element T>
void check_gradient(Inputs<T>& inputs, Gradient got, Gradient expected) {
  const cottention::BackwardArguments<T> args = inputs.backward();
  const cottention::Shape& s = args.shape;
  CHECK(zero_where_masked(got.dq, args.query_mask, s.heads_q * s.dim_qk));
  CHECK(zero_where_masked(got.dk, args.key_mask, s.heads_kv * s.dim_qk));
  CHECK(zero_where_masked(got.dv, args.key_mask, s.heads_kv * s.dim_v));
  CHECK(relative_error(got.dscale_logit, expected.dscale_logit, size_of_dscale_logit(inputs, expected)) <=
        bounds<T>.gradient);
  CHECK(relative_error(got.dinitial_state, expected.dinitial_state) <= bounds<T>.gradient);
  if (inputs.description().rows == Rows::mixed)
    for (Gradient* x : {&got, &expected}) {
      level(x->dq, norms_of(inputs.q()), 1);
      level(x->dk, norms_of(inputs.k()), 1);
      level(x->dv, norms_of(inputs.k()), -1);
    }
  CHECK(relative_error(got.dq, expected.dq) <= bounds<T>.gradient);
  CHECK(relative_error(got.dk, expected.dk) <= bounds<T>.gradient);
  CHECK(relative_error(got.dv, expected.dv) <= bounds<T>.gradient);
}

template <cottention::Element T>
void check_gradient(Inputs<T>& inputs, const Gradient& got) {
  const Case& c = inputs.description();
  check_gradient(inputs, got, gradient(c.mask, c.scale, inputs.backward()));
}

}  // namespace support
