// How useful floating-point operations, a multiply-add as two, and bytes are counted: in this file and
// nowhere else.
//
// Every pass of the library is a *walk* over the tokens of a head, with three roles a, b and c. The forward
// pass is the walk q, k, v -> o; the backward pass is three walks with the roles exchanged, g, v, k -> dq, v,
// g, q -> dk and k, q, g -> dv. Exchanging roles exchanges dim_qk and dim_v, which leaves the count below as
// it is. dk and dv have one state, to which each term is added once, so beside three times the work inside
// chunks the backward pass counts five products with a state, and forward and backward together seven.
//
// Per token and head, a causal walk in chunks of `chunk` tokens does
//
//     (chunk + 1) (dim_qk + dim_v)   inside the chunk: a token sees (chunk + 1) / 2 tokens on average, with
//                                    itself, each for a dot product (the score) and a scaled row (score
//                                    times c)
//     4 dim_qk dim_v                 between chunks: H += b^T c and a H, two products with a state
//
// with `chunk` the tuned chunk that the library uses; for dim_qk = dim_v = d that is 2 (chunk + 1) d + 4 d^2.
// Scores above the diagonal, row norms, weights and projections are work too, but are not counted. A
// bidirectional walk counts 4 dim_qk dim_v.
//
// A larger chunk counts more useful operations for the same result. The chunk-free count, 2 dim_qk dim_v for
// each product with a state of causal and bidirectional walks alike, is therefore shown beside it: it depends
// on the problem alone.
//
// Bytes are those of moving each tensor once: q, k, v and o in the forward pass, q, k, v, g, dq, dk and dv in
// the backward pass.
#pragma once

#include <cstdint>

namespace bench {

struct Work {
  double useful_flop;      ///< counted with the tuned chunk
  double chunk_free_flop;  ///< counted without it
  double tokens;           ///< positions of all sequences, whatever the number of heads
  double bytes;            ///< that must move at least
};

enum class Walks { forward = 1, backward = 3, forward_and_backward = 4 };

/// `chunk` = 0: bidirectional.
constexpr Work count_work(Walks walks, std::int64_t batch, std::int64_t heads, std::int64_t seq,
                          std::int64_t dim_qk, std::int64_t dim_v, int chunk, std::size_t element_bytes) {
  const auto tokens = static_cast<double>(batch * seq);
  const double rows = tokens * static_cast<double>(heads);
  const int products = walks == Walks::forward ? 2 : walks == Walks::backward ? 5 : 7;
  const auto between = static_cast<double>(2 * products * dim_qk * dim_v);
  const double inside =
      chunk == 0 ? 0.0 : static_cast<double>(static_cast<int>(walks) * (chunk + 1) * (dim_qk + dim_v));
  const double tensors = walks == Walks::forward    ? 2
                         : walks == Walks::backward ? 3.5
                                                    : 5.5;  // each dim_qk + dim_v
  return {.useful_flop = rows * (inside + between),
          .chunk_free_flop = rows * between,
          .tokens = tokens,
          .bytes = tokens * static_cast<double>(heads * (dim_qk + dim_v)) * tensors *
                   static_cast<double>(element_bytes)};
}

/// Bytes that a decoding step must move at least: every state read once and written once.
constexpr double step_bytes(std::int64_t batch, std::int64_t heads, std::int64_t dim_qk, std::int64_t dim_v,
                            std::int64_t accumulate_bytes) {
  return static_cast<double>(2 * batch * heads * dim_qk * dim_v * accumulate_bytes);
}

}  // namespace bench
