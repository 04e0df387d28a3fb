#include "kernels.hpp"

using namespace cottention;

int main() {
  cuda_compile::list_forward<Problem<bfloat16, HeadDim{24, 40}, Mask::causal, Scale::none>>();
  cuda_compile::list_forward<Problem<bfloat16, HeadDim{24, 40}, Mask::bidirectional, Scale::by_query>>();
  cuda_compile::list_forward<Problem<bfloat16, HeadDim{72, 104}, Mask::causal, Scale::by_query>>();
  cuda_compile::list_wgmma_forward<Problem<bfloat16, HeadDim{112, 80}, Mask::causal, Scale::by_key>>();
  cuda_compile::list_wgmma_forward<Problem<bfloat16, HeadDim{64, 128}, Mask::causal, Scale::by_key>>();
}
