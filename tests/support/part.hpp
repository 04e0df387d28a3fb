// Parts of a batch: one sequence or a stretch of it, as arguments of a call of its own.
#pragma once

#include <cstdint>
#include <vector>

#include <cottention/arguments.hpp>
#include <cottention/reference.hpp>

namespace support {

struct Range {
  std::int64_t begin, end;
  std::int64_t length() const { return end - begin; }
};

/// Moves `x` to position `begin` of sequence b.
template <class T>
void advance(cottention::Tensor<const T>& x, const cottention::reference::Positions& positions,
             std::int64_t b, std::int64_t begin, std::int64_t heads, std::int64_t dim) {
  x.strides = cottention::resolve(x.strides, positions.seq(), heads, dim);
  x.data += positions.address(b, begin, x.strides);
}

/// Positions `q` and `k` of sequence b as a batch of one that is not packed. Reads the same memory. Keeps the
/// sequence's initial state and drops all outputs.
template <class Arguments>
Arguments part(const Arguments& whole, std::int64_t b, Range q, Range k) {
  const cottention::Shape& s = whole.shape;
  const auto queries = cottention::reference::query_positions(whole);
  const auto keys = cottention::reference::key_positions(whole);
  Arguments args;
  args.shape = s;
  args.shape.batch = 1;
  args.shape.seq_q = q.length();
  args.shape.seq_k = k.length();
  args.q = whole.q;
  args.k = whole.k;
  args.v = whole.v;
  advance(args.q, queries, b, q.begin, s.heads_q, s.dim_qk);
  advance(args.k, keys, b, k.begin, s.heads_kv, s.dim_qk);
  advance(args.v, keys, b, k.begin, s.heads_kv, s.dim_v);
  if (whole.query_mask != nullptr) args.query_mask = whole.query_mask + queries.index(b, q.begin);
  if (whole.key_mask != nullptr) args.key_mask = whole.key_mask + keys.index(b, k.begin);
  const std::int64_t state = s.heads_kv * s.dim_qk * s.dim_v;
  if (whole.initial_state.h != nullptr)
    args.initial_state = {whole.initial_state.h + b * state, whole.initial_state.count + b};
  if constexpr (requires { args.dout; }) {
    args.dout = whole.dout;
    advance(args.dout, queries, b, q.begin, s.heads_q, s.dim_v);
    if (whole.dfinal_state != nullptr) args.dfinal_state = whole.dfinal_state + b * state;
  }
  args.scale_logit = whole.scale_logit;
  args.plan = whole.plan;
  return args;
}

/// All of sequence b.
template <class Arguments>
Arguments sequence(const Arguments& whole, std::int64_t b) {
  return part(whole, b, {0, cottention::reference::query_positions(whole).length(b)},
              {0, cottention::reference::key_positions(whole).length(b)});
}

/// Rows [rows.begin, rows.end) of a contiguous result, `width` values each.
inline std::vector<double> rows_of(const std::vector<double>& x, Range rows, std::int64_t width) {
  return {x.data() + rows.begin * width, x.data() + rows.end * width};
}

inline void append(std::vector<double>& to, const std::vector<double>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

}  // namespace support
