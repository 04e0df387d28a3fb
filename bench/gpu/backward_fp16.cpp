#include "backward.hpp"

void bench::add_backward_fp16(std::vector<Row>& rows) { add_backward_rows<cottention::half>(rows); }
