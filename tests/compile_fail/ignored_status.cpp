// expect: nodiscard
#include <cottention/validation.hpp>

#pragma GCC diagnostic error "-Wunused-result"

int main() { cottention::validate(cottention::Workspace{}, 0); }
