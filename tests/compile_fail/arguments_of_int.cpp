// expect: constraints not satisfied
#include <cottention/arguments.hpp>

int main() { return static_cast<int>(cottention::ForwardArguments<int>{}.shape.batch); }
