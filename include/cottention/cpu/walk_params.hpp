// What a walk reads and writes.
#pragma once

#include <cstdint>

#include <cottention/cpu/counter.hpp>
#include <cottention/cpu/row_view.hpp>
#include <cottention/element.hpp>

namespace cottention::cpu {

/// The operands of a walk: one sequence, one key/value head and the query heads of its group. The
/// operands on the query side have one head for each query head of the group, those on the key side have one.
template <Element T>
struct WalkParams {
  OperandView<const T> a, b, c;
  OperandView<T> out;  // (a_rows, dim_c); null data: not wanted
  OperandView<const T>
      norm_input;  // the x of norm(x), for the norm's backward; null data: the output has none
  std::int64_t a_heads = 1;
  std::int64_t bc_heads = 1;
  std::int64_t a_rows = 0;
  std::int64_t bc_rows = 0;
  Counter counter;
  double exponent = 0;           // sigmoid(m); w = n^-exponent
  bool sums_scale_grad = false;  // whether the walk sums ln(n) (norm(x) . dx), for the gradient of m
};

}  // namespace cottention::cpu
