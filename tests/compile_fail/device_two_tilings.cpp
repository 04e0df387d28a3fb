// expect: a CUDA call takes at most one Tiling
#include <cottention/host/validation.hpp>

using namespace cottention;

int main() { host::require_device_tiling<Tiling{.chunk = 64}, Tiling{.chunk = 32}>(); }
