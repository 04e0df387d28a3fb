#include "kernels.hpp"

using namespace cottention;

// It has the fewest registers to spare.
using Widest = Problem<half, HeadDim{128, 128}, Mask::causal, Scale::by_key>;
using WidestDk = kernel::Roles<Widest, recurrence::Output::dk>;
constexpr Tiling tiling_of_dk = tuning::wgmma_recurrence<WidestDk>;
using WalkOfDk = host::Walk<WidestDk, tiling_of_dk>;

int main() {
  cuda_compile::list_backward<Problem<half, HeadDim{64, 64}, Mask::causal, Scale::by_key>>();
  cuda_compile::compile(&device::entry<WalkOfDk>);
  cuda_compile::list_kernel<Widest, tiling_of_dk, WalkOfDk>();
}
