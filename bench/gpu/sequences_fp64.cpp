#include "sequences.hpp"

void bench::add_fp64(Rows& rows) { add_sweep_rows<double>(rows); }
