// Turns a mask and a scale known at run time into a Problem.
#pragma once

#include <cottention/problem.hpp>

namespace support {

template <cottention::Element T, cottention::Mask M, class Function>
auto with_scale(cottention::Scale scale, const Function& function) {
  using cottention::any_head_dim, cottention::Problem, cottention::Scale;
  if (scale == Scale::none) return function(Problem<T, any_head_dim, M, Scale::none>{});
  if (scale == Scale::by_key) return function(Problem<T, any_head_dim, M, Scale::by_key>{});
  return function(Problem<T, any_head_dim, M, Scale::by_query>{});
}

/// function(Problem<T, any_head_dim, mask, scale>{})
template <cottention::Element T, class Function>
auto with_problem(cottention::Mask mask, cottention::Scale scale, const Function& function) {
  return mask == cottention::Mask::causal ? with_scale<T, cottention::Mask::causal>(scale, function)
                                          : with_scale<T, cottention::Mask::bidirectional>(scale, function);
}

}  // namespace support
