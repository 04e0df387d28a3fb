#include "kernels.hpp"

using namespace cottention;

int main() {
  cuda_compile::list_backward<Problem<bfloat16, HeadDim{64, 64}, Mask::causal, Scale::by_key>>();
  cuda_compile::list_backward<Problem<bfloat16, HeadDim{64, 64}, Mask::bidirectional, Scale::by_query>>();
}
