#include "sequences.hpp"

void bench::add_fp32(Rows& rows) {
  add_standard_rows<float>(rows);
  add_sweep_rows<float>(rows);
  add_authors_rows<float>(rows);
}
