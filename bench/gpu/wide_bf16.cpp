// Heads as wide as the authors' widest models have them.
#include "sequences.hpp"

void bench::add_wide_bf16(Rows& rows) {
  add_authors_width<cottention::bfloat16, 512>(rows);
  add_authors_width<cottention::bfloat16, 1024>(rows);
}
