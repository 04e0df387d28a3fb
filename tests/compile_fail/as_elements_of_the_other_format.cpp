// expect: give as T the type that the elements have
#include <cottention/element.hpp>

cottention::half x[2];
const auto* elements = cottention::as_elements<cottention::bfloat16>(x);
