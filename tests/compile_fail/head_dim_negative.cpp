// expect: a Problem's head dimensions must both be positive
#include <cottention/problem.hpp>

using namespace cottention;

int main() { return static_cast<int>(Problem<float, HeadDim{-64, -64}, Mask::causal, Scale::by_key>::mask); }
