// expect: a Tiling's engine must be one that kernels are written for
#include <cottention/host/validation.hpp>

using namespace cottention;

int main() { host::require_device_tiling<Tiling{.chunk = 64, .engine = static_cast<Engine>(99)}>(); }
