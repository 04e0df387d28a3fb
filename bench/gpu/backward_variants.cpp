// Splits beside the library's choice: what its rule is chosen from.
#include "backward.hpp"

namespace bench {
namespace {

using namespace cottention;

template <AnyProblem P>
void add_splits(std::vector<Row>& rows, const Size& size) {
  for (const int pieces : {1, 8, 16, 32, 64})
    add_backward<P>(rows, size, Timed::backward, "pieces" + std::to_string(pieces), FinalH::kept, {pieces});
}

}  // namespace

void add_backward_variants(std::vector<Row>& rows) {
  add_splits<Problem<bfloat16, HeadDim{64, 64}, Mask::causal, Scale::by_key>>(rows, long_sequence);
}

}  // namespace bench
