// expect: because it reads the same bits
#include <cottention/element.hpp>

int x[2];
const auto* elements = cottention::as_elements<float>(x);
