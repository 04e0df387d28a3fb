#include "forward.hpp"

void bench::add_forward_fp16(std::vector<Row>& rows) { add_forward_rows<cottention::half>(rows); }
