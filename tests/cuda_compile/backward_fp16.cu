#include "kernels.hpp"

using namespace cottention;

int main() {
  cuda_compile::list_backward<Problem<half, HeadDim{64, 64}, Mask::causal, Scale::by_key>>();
  // They have the fewest registers to spare.
  cuda_compile::list_wgmma_walk<Problem<half, HeadDim{128, 128}, Mask::causal, Scale::by_key>,
                                recurrence::Output::dk>();
  cuda_compile::list_key_gradients<Problem<half, HeadDim{128, 128}, Mask::causal, Scale::by_key>>();
}
