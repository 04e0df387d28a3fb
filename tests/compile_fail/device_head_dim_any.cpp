// expect: a CUDA call needs fixed head dimensions
#include <cottention/host/validation.hpp>

using namespace cottention;
using P = Problem<half, any_head_dim, Mask::causal, Scale::by_key>;

int main() { return host::validate_for_device<P>(StepArguments<half>{}).ok() ? 0 : 1; }
