// expect: CUDA kernels need head dimensions that are multiples of 8 up to 256, or 512 or 1024
#include <cottention/host/validation.hpp>

using namespace cottention;
using P = Problem<half, HeadDim{64, 100}, Mask::causal, Scale::by_key>;

int main() { return host::validate_for_device<P>(ForwardArguments<half>{}).ok() ? 0 : 1; }
