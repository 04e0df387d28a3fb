#include "kernels.hpp"

using namespace cottention;

int main() {
  cuda_compile::list_backward<Problem<half, HeadDim{64, 64}, Mask::causal, Scale::by_key>>();
}
