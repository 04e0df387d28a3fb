// expect: const cottention::half
#include <cottention/element.hpp>

const unsigned short x[2] = {};
cottention::half* elements = cottention::as_elements<cottention::half>(x);
