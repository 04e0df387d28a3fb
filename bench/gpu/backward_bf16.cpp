#include "backward.hpp"

void bench::add_backward_bf16(std::vector<Row>& rows) { add_backward_rows<cottention::bfloat16>(rows); }
