#include "kernels.hpp"

using namespace cottention;

int main() {
  cuda_compile::list_forward<Problem<bfloat16, HeadDim{512, 512}, Mask::causal, Scale::by_key>>();
  cuda_compile::list_forward<Problem<bfloat16, HeadDim{1024, 64}, Mask::bidirectional, Scale::by_key>>();
}
