// What a walk reads and writes.
#pragma once

#include <cstdint>

#include <cottention/cpu/counter.hpp>
#include <cottention/cpu/row_view.hpp>
#include <cottention/element.hpp>

namespace cottention::cpu {

/// The operands of one output of a walk.
template <Element T>
struct OutputOperands {
  OperandView<const T> a, b, c;
  OperandView<T> out;  // (a_rows, dim_c); null data: not wanted
  OperandView<const T>
      norm_input;  // the x of norm(x), for the norm's backward; null data: the output has none
};

/// The operands of a walk: one sequence, one key/value head and the query heads of its group. The
/// operands on the query side have one head for each query head of the group, those on the key side have one.
/// A walk with two outputs makes dv and dk: b and c of the second are c and b of the first, so its state is
/// that of the first transposed, and its norm's input is a of the first. It has one head of a.
template <Element T>
struct WalkParams {
  OutputOperands<T> outputs[2];
  bool two_outputs = false;
  std::int64_t a_heads = 1;
  std::int64_t bc_heads = 1;
  std::int64_t a_rows = 0;
  std::int64_t bc_rows = 0;
  Counter counter;
  double exponent = 0;           // sigmoid(m); w = n^-exponent
  bool keeps_state = false;      // whether the final state is handed out
  bool sums_scale_grad = false;  // whether the walk sums ln(n) (norm(x) . dx), for the gradient of m

  int output_count() const { return two_outputs ? 2 : 1; }
  /// Of the state, (dim_a, dim_c).
  std::int64_t dim_a() const { return outputs[0].a.rows.dim; }
  std::int64_t dim_c() const { return outputs[0].c.rows.dim; }
};

}  // namespace cottention::cpu
