// expect: no matching function for call to
#include <cottention/validation.hpp>

using namespace cottention;
using P = Problem<float, any_head_dim, Mask::causal, Scale::by_key>;

int main() { return validate<P>(ForwardArguments<half>{}).ok() ? 0 : 1; }
