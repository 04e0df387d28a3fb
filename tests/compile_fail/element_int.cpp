// expect: constraints not satisfied
#include <cottention/problem.hpp>

using namespace cottention;

int main() { return static_cast<int>(Problem<int, HeadDim{64, 64}, Mask::causal, Scale::by_key>::mask); }
