#include "kernels.hpp"

using namespace cottention;

int main() {
  cuda_compile::list_backward<Problem<bfloat16, HeadDim{128, 128}, Mask::causal, Scale::by_key>>();
  cuda_compile::list_key_gradients<
      Problem<bfloat16, HeadDim{128, 128}, Mask::bidirectional, Scale::by_key>>();
}
