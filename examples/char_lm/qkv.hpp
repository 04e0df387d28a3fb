// The library's arguments for q, k and v that lie side by side in rows of [3, heads, head_dim].
#pragma once

#include <cstdint>

#include <cottention/arguments.hpp>

#include "attention.hpp"

namespace char_lm {

inline cottention::Shape extents(const AttentionShape& shape) {
  return {.batch = shape.batch,
          .seq_q = shape.seq,
          .seq_k = shape.seq,
          .heads_q = shape.heads,
          .heads_kv = shape.heads,
          .dim_qk = shape.head_dim,
          .dim_v = shape.head_dim};
}

/// Part 0, 1 or 2 (q, k, v) of the rows.
template <class T>
cottention::Tensor<T> part(T* qkv, std::int64_t which, const AttentionShape& shape) {
  const std::int64_t part_dim = shape.heads * shape.head_dim;
  return {.data = qkv + which * part_dim,
          .strides = {.batch = shape.seq * 3 * part_dim, .seq = 3 * part_dim, .head = shape.head_dim}};
}

template <class Real>
cottention::ForwardArguments<Real> forward_arguments(const AttentionShape& shape, const Real* qkv,
                                                     const cottention::Accumulate<Real>* scale_logit,
                                                     Real* o) {
  return {.shape = extents(shape),
          .q = part(qkv, 0, shape),
          .k = part(qkv, 1, shape),
          .v = part(qkv, 2, shape),
          .o = {o},
          .scale_logit = scale_logit};
}

/// Of the next token of one sequence, whose state is `state`.
template <class Real>
cottention::StepArguments<Real> step_arguments(std::int64_t heads, std::int64_t head_dim, const Real* qkv,
                                               const cottention::Accumulate<Real>* scale_logit, Real* o,
                                               cottention::State<Real> state) {
  const AttentionShape shape{.batch = 1, .seq = 1, .heads = heads, .head_dim = head_dim};
  return {.shape = extents(shape),
          .q = part(qkv, 0, shape),
          .k = part(qkv, 1, shape),
          .v = part(qkv, 2, shape),
          .o = {o},
          .scale_logit = scale_logit,
          .pool = state,
          .pool_slots = 1};
}

}  // namespace char_lm
