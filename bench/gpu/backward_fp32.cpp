#include "backward.hpp"

void bench::add_backward_fp32(std::vector<Row>& rows) { add_backward_rows<float>(rows); }
