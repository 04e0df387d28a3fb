// What cpu_calls_*.cpp compile.
#pragma once

#include "support/cpu_calls.hpp"
#include "support/select.hpp"

namespace support {

template <cottention::Element T>
ForwardCall<T> cpu_forward(cottention::Mask mask, cottention::Scale scale) {
  return with_problem<T>(mask, scale, []<class P>(P) { return forward_of<P>(); });
}

template <cottention::Element T>
BackwardCall<T> cpu_backward(cottention::Mask mask, cottention::Scale scale) {
  return with_problem<T>(mask, scale, []<class P>(P) { return backward_of<P>(); });
}

template <cottention::Element T>
StepCall<T> cpu_step(cottention::Scale scale) {
  return with_scale<T, cottention::Mask::causal>(scale, []<class P>(P) { return step_of<P>(); });
}

template <cottention::Element T>
PartForwardCall<T> cpu_part_forward(cottention::Mask mask, cottention::Scale scale) {
  return with_problem<T>(mask, scale, []<class P>(P) { return part_forward_of<P>(); });
}

template <cottention::Element T>
PartBackwardCall<T> cpu_part_backward(cottention::Mask mask, cottention::Scale scale) {
  return with_problem<T>(mask, scale, []<class P>(P) { return part_backward_of<P>(); });
}

}  // namespace support
