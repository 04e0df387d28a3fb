// expect: as_elements<T> takes void*
#include <cottention/element.hpp>

float x[2];
const auto* elements = cottention::as_elements<cottention::half>(x);
