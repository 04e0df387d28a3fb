// The definition of cosine attention, as written down: a sum over all visible keys for every query.
#pragma once

#include <cstdint>
#include <vector>

#include <cottention/reference/input.hpp>

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::reference {

/// Results in double, contiguous.
struct Output {
  std::vector<double> o;            ///< [batch, seq_q, heads_q, dim_v]; packed, [seq_q, heads_q, dim_v]
  std::vector<double> h;            ///< [batch, heads_kv, dim_qk, dim_v], the final state
  std::vector<std::int64_t> count;  ///< [batch], the final count
};

/// The outputs of query head h of sequence b, with h_0 the initial state:
///
///     o_i = w_i (h_0^T norm(q_i) + sum over visible j of (norm(q_i) . norm(k_j)) w_j v_j)
template <AnyProblem P>
void attend(const ForwardArguments<typename P::element>& args, std::int64_t b, std::int64_t h, Output& out) {
  using R = Real<typename P::element>;
  const Shape& shape = args.shape;
  const Positions queries = query_positions(args), keys = key_positions(args);
  const std::int64_t h_kv = h / (shape.heads_q / shape.heads_kv);

  const Counts<P::mask> counts(args, keys, b);
  const Weights<P> weights(counts, args.scale_logit, h_kv);
  const Matrix<R> q = normalise(read(args.q, queries, b, shape.heads_q, h, shape.dim_qk),  // (seq_q, dim_qk)
                                queries.length(b), shape.dim_qk);
  const Matrix<R> k = normalise(read(args.k, keys, b, shape.heads_kv, h_kv, shape.dim_qk),  // (seq_k, dim_qk)
                                keys.length(b), shape.dim_qk);
  Matrix<R> v = read(args.v, keys, b, shape.heads_kv, h_kv, shape.dim_v);  // (seq_k, dim_v)
  weigh_keys(v, weights, keys.length(b), shape.dim_v);
  const Matrix<R> initial =
      read_state<R>(args.initial_state.h, shape, initial_slot(args, b), h_kv);  // (dim_qk, dim_v)

  for (std::int64_t i = 0; i < queries.length(b); ++i) {
    if (!queries.valid(b, i)) continue;
    std::vector<R> o(static_cast<std::size_t>(shape.dim_v));

    for (std::int64_t d = 0; d < shape.dim_qk; ++d)
      for (std::int64_t e = 0; e < shape.dim_v; ++e) o.data()[e] += q[i][d] * initial[d][e];

    const std::int64_t visible = P::mask == Mask::causal ? i + 1 : keys.length(b);
    for (std::int64_t j = 0; j < visible; ++j) {
      if (!keys.valid(b, j)) continue;
      const R score = dot(q[i], k[j], shape.dim_qk);
      for (std::int64_t e = 0; e < shape.dim_v; ++e) o.data()[e] += score * v[j][e];
    }

    for (R& x : o) x *= weights.query(i);
    store(o.data(), shape.dim_v, out.o, queries.index(b, i) * shape.heads_q + h);
  }
}

/// The final state of key head h of sequence b: h = h_0 + sum over j of norm(k_j) (w_j v_j)^T
template <AnyProblem P>
void absorb(const ForwardArguments<typename P::element>& args, std::int64_t b, std::int64_t h, Output& out) {
  using R = Real<typename P::element>;
  const Shape& shape = args.shape;
  const Positions keys = key_positions(args);

  const Counts<P::mask> counts(args, keys, b);
  const Weights<P> weights(counts, args.scale_logit, h);
  const Matrix<R> k = normalise(read(args.k, keys, b, shape.heads_kv, h, shape.dim_qk),  // (seq_k, dim_qk)
                                keys.length(b), shape.dim_qk);
  Matrix<R> v = read(args.v, keys, b, shape.heads_kv, h, shape.dim_v);  // (seq_k, dim_v)
  weigh_keys(v, weights, keys.length(b), shape.dim_v);

  Matrix<R> state = read_state<R>(args.initial_state.h, shape, initial_slot(args, b), h);  // (dim_qk, dim_v)
  for (std::int64_t j = 0; j < keys.length(b); ++j)
    if (keys.valid(b, j)) add_outer_product(state, k[j], v[j], shape.dim_qk, shape.dim_v);
  store(state[0], shape.dim_qk * shape.dim_v, out.h, b * shape.heads_kv + h);
}

/// An output with every row 0 and every count final.
template <AnyProblem P>
Output blank_output(const ForwardArguments<typename P::element>& args) {
  const Shape& shape = args.shape;
  Output out{.o = zeros(query_positions(args).total() * shape.heads_q * shape.dim_v),
             .h = zeros(shape.batch * shape.heads_kv * shape.dim_qk * shape.dim_v),
             .count = {}};
  for (std::int64_t b = 0; b < shape.batch; ++b)
    out.count.push_back(Counts<P::mask>(args, key_positions(args), b).total());
  return out;
}

/// Cosine attention by its definition, in time quadratic in the sequence length. `args` must be valid; its
/// output pointers are ignored.
template <AnyProblem P>
Output forward(const ForwardArguments<typename P::element>& args) {
  Output out = blank_output<P>(args);
  for (std::int64_t b = 0; b < args.shape.batch; ++b) {
    for (std::int64_t h = 0; h < args.shape.heads_q; ++h) attend<P>(args, b, h, out);
    for (std::int64_t h = 0; h < args.shape.heads_kv; ++h) absorb<P>(args, b, h, out);
  }
  return out;
}

}  // namespace cottention::reference

#if defined(__clang__)
#pragma float_control(pop)
#endif
