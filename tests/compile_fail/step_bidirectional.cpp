// expect: step needs a causal Problem
#include <cottention/validation.hpp>

using namespace cottention;
using Both = Problem<float, any_head_dim, Mask::bidirectional, Scale::by_key>;

int main() { return validate<Both>(StepArguments<float>{}).ok() ? 0 : 1; }
