#include "forward.hpp"

void bench::add_forward_bf16(std::vector<Row>& rows) { add_forward_rows<cottention::bfloat16>(rows); }
