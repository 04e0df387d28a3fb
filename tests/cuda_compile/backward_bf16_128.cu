#include "kernels.hpp"

using namespace cottention;

int main() {
  cuda_compile::list_backward<Problem<bfloat16, HeadDim{128, 128}, Mask::causal, Scale::by_key>>();
  cuda_compile::list_backward<Problem<bfloat16, HeadDim{256, 256}, Mask::causal, Scale::by_query>>();
}
