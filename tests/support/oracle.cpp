#include "support/oracle.hpp"

#include "support/select.hpp"

namespace support {

using cottention::BackwardArguments, cottention::Element, cottention::ForwardArguments, cottention::Mask,
    cottention::Scale;
namespace reference = cottention::reference;

template <Element T>
reference::Output definition(Mask mask, Scale scale, const ForwardArguments<T>& args) {
  return with_problem<T>(mask, scale, [&]<class P>(P) { return reference::forward<P>(args); });
}

template <Element T>
reference::Output recurrence(Mask mask, Scale scale, const ForwardArguments<T>& args) {
  return with_problem<T>(mask, scale, [&]<class P>(P) { return reference::recurrence<P>(args); });
}

template <Element T>
reference::Gradient gradient(Mask mask, Scale scale, const BackwardArguments<T>& args) {
  return with_problem<T>(mask, scale, [&]<class P>(P) { return reference::backward<P>(args); });
}

template reference::Output definition(Mask, Scale, const ForwardArguments<double>&);
template reference::Output recurrence(Mask, Scale, const ForwardArguments<double>&);
template reference::Gradient gradient(Mask, Scale, const BackwardArguments<double>&);

template reference::Output definition(Mask, Scale, const ForwardArguments<float>&);
template reference::Output recurrence(Mask, Scale, const ForwardArguments<float>&);
template reference::Gradient gradient(Mask, Scale, const BackwardArguments<float>&);

template reference::Output definition(Mask, Scale, const ForwardArguments<cottention::half>&);
template reference::Output recurrence(Mask, Scale, const ForwardArguments<cottention::half>&);
template reference::Gradient gradient(Mask, Scale, const BackwardArguments<cottention::half>&);

template reference::Output definition(Mask, Scale, const ForwardArguments<cottention::bfloat16>&);
template reference::Output recurrence(Mask, Scale, const ForwardArguments<cottention::bfloat16>&);
template reference::Gradient gradient(Mask, Scale, const BackwardArguments<cottention::bfloat16>&);

}  // namespace support
