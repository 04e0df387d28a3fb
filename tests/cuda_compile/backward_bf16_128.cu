#include "kernels.hpp"

using namespace cottention;

int main() {
  cuda_compile::list_backward<Problem<bfloat16, HeadDim{128, 128}, Mask::causal, Scale::by_key>>();
}
