#include "kernels.hpp"

using namespace cottention;

int main() {
  cuda_compile::list_step<Problem<bfloat16, HeadDim{64, 64}, Mask::causal, Scale::by_key>>();
  cuda_compile::list_step<Problem<bfloat16, HeadDim{128, 128}, Mask::causal, Scale::by_key>>();
  cuda_compile::list_step<Problem<half, HeadDim{64, 64}, Mask::causal, Scale::by_key>>();
  cuda_compile::list_step<Problem<float, HeadDim{128, 128}, Mask::causal, Scale::by_key>>();
  cuda_compile::list_step<Problem<double, HeadDim{64, 64}, Mask::causal, Scale::by_key>>();
  cuda_compile::list_step<Problem<bfloat16, HeadDim{512, 512}, Mask::causal, Scale::by_query>>();
}
