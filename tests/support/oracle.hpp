// The reference with mask and scale chosen at run time, compiled once for all tests (oracle.cpp).
#pragma once

#include <cottention/reference.hpp>

namespace support {

template <cottention::Element T>
cottention::reference::Output definition(cottention::Mask, cottention::Scale,
                                         const cottention::ForwardArguments<T>&);

template <cottention::Element T>
cottention::reference::Output recurrence(cottention::Mask, cottention::Scale,
                                         const cottention::ForwardArguments<T>&);

template <cottention::Element T>
cottention::reference::Gradient gradient(cottention::Mask, cottention::Scale,
                                         const cottention::BackwardArguments<T>&);

}  // namespace support
