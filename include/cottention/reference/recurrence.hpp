// The same attention as a recurrence: a state absorbs one key after another, each query reads it. Linear
// time.
#pragma once

#include <cstdint>
#include <vector>

#include <cottention/reference/attention.hpp>

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::reference {

/// Key head h of sequence b, and the query heads that read it:
///
///     H += norm(k_j) (w_j v_j)^T        o_i = w_i H^T norm(q_i)
///
/// Causal: position by position. Bidirectional: all keys, then all queries.
template <AnyProblem P>
void recur(const ForwardArguments<typename P::element>& args, std::int64_t b, std::int64_t h, Output& out) {
  using R = Real<typename P::element>;
  const Shape& shape = args.shape;
  const Positions queries = query_positions(args), keys = key_positions(args);
  const std::int64_t group = shape.heads_q / shape.heads_kv;

  const Counts<P::mask> counts(args, keys, b);
  const Weights<P> weights(counts, args.scale_logit, h);
  const Matrix<R> k = normalise(read(args.k, keys, b, shape.heads_kv, h, shape.dim_qk),  // (seq_k, dim_qk)
                                keys.length(b), shape.dim_qk);
  Matrix<R> v = read(args.v, keys, b, shape.heads_kv, h, shape.dim_v);  // (seq_k, dim_v)
  weigh_keys(v, weights, keys.length(b), shape.dim_v);
  std::vector<Matrix<R>> q;  // of each head of the group, (seq_q, dim_qk)
  for (std::int64_t group_head = 0; group_head < group; ++group_head)
    q.push_back(normalise(read(args.q, queries, b, shape.heads_q, h * group + group_head, shape.dim_qk),
                          queries.length(b), shape.dim_qk));

  Matrix<R> state = read_state<R>(args.initial_state.h, shape, initial_slot(args, b), h);  // (dim_qk, dim_v)

  const auto absorb_key = [&](std::int64_t j) {
    if (keys.valid(b, j)) add_outer_product(state, k[j], v[j], shape.dim_qk, shape.dim_v);
  };
  const auto answer_query = [&](std::int64_t i) {
    if (!queries.valid(b, i)) return;
    for (std::int64_t group_head = 0; group_head < group; ++group_head) {
      const R* q_i = q.data()[group_head][i];
      std::vector<R> o(static_cast<std::size_t>(shape.dim_v));
      add_product_transposed(state, q_i, o.data(), shape.dim_qk, shape.dim_v);
      for (R& x : o) x *= weights.query(i);
      store(o.data(), shape.dim_v, out.o, queries.index(b, i) * shape.heads_q + h * group + group_head);
    }
  };

  if constexpr (P::mask == Mask::causal) {
    for (std::int64_t t = 0; t < keys.length(b); ++t) {
      absorb_key(t);
      answer_query(t);
    }
  } else {
    for (std::int64_t j = 0; j < keys.length(b); ++j) absorb_key(j);
    for (std::int64_t i = 0; i < queries.length(b); ++i) answer_query(i);
  }
  store(state[0], shape.dim_qk * shape.dim_v, out.h, b * shape.heads_kv + h);
}

/// What `forward` computes, in time linear in the sequence length.
template <AnyProblem P>
Output recurrence(const ForwardArguments<typename P::element>& args) {
  Output out = blank_output<P>(args);
  for (std::int64_t b = 0; b < args.shape.batch; ++b)
    for (std::int64_t h = 0; h < args.shape.heads_kv; ++h) recur<P>(args, b, h, out);
  return out;
}

}  // namespace cottention::reference

#if defined(__clang__)
#pragma float_control(pop)
#endif
