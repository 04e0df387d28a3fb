// Gradients of the oracle by finite differences of its definition.
#include <cottention/reference.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "support/catch.hpp"
#include "support/error.hpp"
#include "support/oracle.hpp"
#include "support/problem_generator.hpp"
#include "support/reference_cases.hpp"

using cottention::ForwardArguments, cottention::Mask, cottention::Scale;
using cottention::reference::Gradient, cottention::reference::Output;
using support::Case, support::definition, support::Inputs, support::Presence, support::relative_error,
    support::small_cases;
using Values = std::vector<double>;

namespace {

/// dL/dx for a loss L that depends on x through `loss_at`, by central differences with steps `step` and half
/// of it. Their combination cancels the error term in step^2, so that the rest is of the order of step^4.
double differentiate(double step, const std::function<double(double)>& loss_at) {
  const auto central = [&](double s) { return (loss_at(s) - loss_at(-s)) / (2 * s); };
  return (4 * central(step / 2) - central(step)) / 3;
}

/// The loss whose gradients with respect to o and to the final state are `dout` and `dfinal_state`.
class Loss {
 public:
  Loss(Inputs<double>& inputs, const Case& c)
      : case_(c),
        args_(inputs.forward()),
        dout_(inputs.dout().values()),
        dfinal_state_(inputs.dfinal_state()) {
    const std::size_t width = static_cast<std::size_t>(args_.shape.heads_q * args_.shape.dim_v);
    const std::int64_t rows = args_.cu_seqlens_q.given() ? args_.cu_seqlens_q[args_.shape.batch]
                                                         : args_.shape.batch * args_.shape.seq_q;
    // Rows of masked queries and of trailing tokens are constant.
    for (std::size_t i = 0; i < dout_.size(); ++i)
      if ((args_.query_mask != nullptr && args_.query_mask[i / width] == 0) ||
          static_cast<std::int64_t>(i / width) >= rows)
        dout_[i] = 0;
  }

  double value() const {
    const Output out = definition(case_, args_);
    long double sum = 0;
    for (std::size_t i = 0; i < dout_.size(); ++i) sum += static_cast<long double>(out.o[i]) * dout_[i];
    for (std::size_t i = 0; i < out.h.size(); ++i)
      sum += static_cast<long double>(out.h[i]) * dfinal_state_[i];
    return static_cast<double>(sum);
  }

  /// The derivative by a value of the inputs. Steps are powers of two times `unit`.
  template <class T>
  double derivative(T& x, double unit) const {
    const T kept = x;
    const double slope = differentiate(unit * 0x1p-9, [&](double step) {
      x = static_cast<T>(kept + step);
      const double loss = value();
      x = kept;
      return loss;
    });
    return slope;
  }

 private:
  Case case_;
  ForwardArguments<double> args_;
  Values dout_, dfinal_state_;
};

/// max(||x||, 1e-12), or 1 for masked rows
double row_unit(const double* row, std::int64_t dim) {
  const double divisor = cottention::reference::norm_divisor(row, dim);
  return std::isfinite(divisor) ? divisor : 1;
}

/// Checks dL/dx of all rows of q or k. norm(x) depends on x / max(||x||, 1e-12) alone, so steps are relative
/// to that, and derivatives are compared times that: tiny and huge rows then count as much as others.
void check_rows(const Loss& loss, support::TensorBuffer<double>& x, const Values& gradient) {
  Values measured, expected;
  for (std::int64_t row = 0; row < x.positions() * x.heads(); ++row) {
    double* values = x.row(row / x.heads(), row % x.heads());
    const double unit = row_unit(values, x.dim());
    for (std::int64_t d = 0; d < x.dim(); ++d) {
      measured.push_back(loss.derivative(values[d], unit) * unit);
      expected.push_back(gradient.data()[row * x.dim() + d] * unit);
    }
  }
  CHECK(relative_error(measured, expected) <= 1e-10);
}

}  // namespace

TEST_CASE("The reference's gradients are the slopes of its definition") {
  for (const Case& c : small_cases()) {
    Inputs<double> inputs(c);
    INFO(support::describe<double>(c));
    const Loss loss(inputs, c);
    const Gradient gradient = support::gradient(c.mask, c.scale, inputs.backward());

    check_rows(loss, inputs.q(), gradient.dq);
    check_rows(loss, inputs.k(), gradient.dk);
    // The loss is linear in v and in the initial state, so that steps may be wide.
    Values dv;
    for (std::int64_t position = 0; position < inputs.v().positions(); ++position)
      for (std::int64_t h = 0; h < inputs.v().heads(); ++h)
        for (std::int64_t e = 0; e < inputs.v().dim(); ++e)
          dv.push_back(loss.derivative(inputs.v().row(position, h)[e], 0x1p9));
    CHECK(relative_error(dv, gradient.dv) <= 1e-12);
    if (c.scale != Scale::none) {
      Values dscale_logit;
      for (double& m : inputs.scale_logit()) dscale_logit.push_back(loss.derivative(m, 1));
      CHECK(relative_error(dscale_logit, gradient.dscale_logit) <= 1e-10);
    } else {
      CHECK(gradient.dscale_logit == Values(gradient.dscale_logit.size()));
    }
    if (c.initial_state == Presence::present) {
      Values dinitial_state;
      for (double& h : inputs.initial_state()) dinitial_state.push_back(loss.derivative(h, 0x1p9));
      CHECK(relative_error(dinitial_state, gradient.dinitial_state) <= 1e-12);
    }
  }
}

TEST_CASE("The reference's gradient of m falls as exp(-m) where weights no longer change") {
  for (const Scale scale : {Scale::by_key, Scale::by_query}) {
    Inputs<double> inputs({.scale = scale, .shape = {1, 40, 40, 1, 1, 8, 8}});
    const auto gradient_at = [&](double m) {
      inputs.scale_logit()[0] = m;
      return support::gradient(Mask::causal, scale, inputs.backward()).dscale_logit[0];
    };
    const double at_30 = gradient_at(30);
    REQUIRE(at_30 != 0);
    for (const double m : {33, 40, 60})
      CHECK(gradient_at(m) / at_30 == Approx(std::exp(30.0 - m)).epsilon(1e-9));
  }
}
