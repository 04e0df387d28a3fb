// Heads as wide as the authors' widest models have them.
#include "sequences.hpp"

void bench::add_wide_fp32(Rows& rows) {
  add_authors_width<float, 512>(rows);
  add_authors_width<float, 1024>(rows);
}
