#include "sequences.hpp"

namespace bench {
namespace {

using cottention::bfloat16;

/// Splits beside the library's choice: what its rule is chosen from.
void add_splits(Rows& rows) {
  const auto name = [](int pieces) { return "pieces" + std::to_string(pieces); };
  for (const int pieces : {8, 12, 16, 24, 32, 48, 64}) {
    add_forward<Causal<bfloat16, 64>>(rows, long_sequence, name(pieces), {pieces});
    add_forward<Bidirectional<bfloat16, 64>>(rows, long_sequence, name(pieces), {pieces});
  }
  for (const int pieces : {1, 8, 16, 32, 64})
    add_backward<Causal<bfloat16, 64>>(rows, long_sequence, Walks::backward, name(pieces), FinalH::kept,
                                       {pieces});
}

}  // namespace

void add_bf16(Rows& rows) {
  add_standard_rows<bfloat16>(rows);
  if (rows.wants(Preset::standard)) add_splits(rows);
#ifndef BENCH_STANDARD_ALONE
  add_sweep_rows<bfloat16>(rows);
  add_authors_rows<bfloat16>(rows);
#endif
}

}  // namespace bench
