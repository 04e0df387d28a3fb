#include "sequences.hpp"

void bench::add_fp16(Rows& rows) {
  add_standard_rows<cottention::half>(rows);
  add_sweep_rows<cottention::half>(rows);
}
