// expect: no matching function for call to
#include <cottention/validation.hpp>

using namespace cottention;

int main() { return validate<float>(ForwardArguments<float>{}).ok() ? 0 : 1; }
