#include "forward.hpp"

void bench::add_forward_fp32(std::vector<Row>& rows) { add_forward_rows<float>(rows); }
