// One element type and one pair of head dimensions, by macros, for the wide sweep.
#include "kernels.hpp"

using namespace cottention;

using Causal =
    Problem<COTTENTION_ELEMENT, HeadDim{COTTENTION_DIM_QK, COTTENTION_DIM_V}, Mask::causal, Scale::by_key>;
using Bidirectional = Problem<COTTENTION_ELEMENT, HeadDim{COTTENTION_DIM_QK, COTTENTION_DIM_V},
                              Mask::bidirectional, Scale::by_key>;

int main() {
  cuda_compile::list_forward<Causal>();
  cuda_compile::list_forward<Bidirectional>();
  cuda_compile::list_backward<Causal>();
  cuda_compile::list_backward<Bidirectional>();
  cuda_compile::list_step<Causal>();
}
