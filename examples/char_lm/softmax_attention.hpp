// Ordinary softmax attention, softmax(q k^T / sqrt(head_dim)) v, for the model's twin: the parallel form in
// blocks of queries that keep only a row's logarithm of sums for the backward pass, the recurrent form over a
// cache of all past keys and values.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "attention.hpp"
#include "multiply.hpp"
#include "team.hpp"
#include "vector_math.hpp"

namespace char_lm {

template <class Real>
class SoftmaxAttention final : public Attention<Real> {
 public:
  /// `largest` bounds the shapes of forward and backward.
  SoftmaxAttention(Team& team, Multipliers<Real>& multipliers, std::int64_t layers,
                   const AttentionShape& largest)
      : team_(team),
        multipliers_(multipliers),
        layers_(layers),
        largest_(largest),
        scale_(1 / std::sqrt(static_cast<Real>(largest.head_dim))),
        log_sum_(static_cast<std::size_t>(layers * rows(largest))),
        scratch_(static_cast<std::size_t>(team.threads() * 2 * query_block * largest.seq)) {}

  void forward(const AttentionShape& shape, std::int64_t layer, const Real* qkv, const Real*,
               Real* o) override {
    const Walk walk(shape);
    Real* log_sum = log_sum_.data() + layer * rows(largest_);
    team_.split(shape.batch * shape.heads, 1, [&](std::int64_t begin, std::int64_t end, int thread) {
      Real* p = scratch(thread, 0);
      for (std::int64_t bh = begin; bh < end; ++bh)
        for (std::int64_t i = 0; i < shape.seq; i += query_block) {
          const std::int64_t count = std::min(query_block, shape.seq - i), visible = i + count;
          scores(walk, thread, qkv, bh, i, count, p);
          for (std::int64_t r = 0; r < count; ++r)
            log_sum[bh * shape.seq + i + r] = softmax_row(p + r * visible, i + r + 1, visible);
          multipliers_.of_thread(thread)(count, shape.head_dim, visible, {p, visible}, walk.v(qkv, bh, 0),
                                         o + walk.o_offset(bh, i), walk.o_row, Store::overwrite);
        }
    });
  }

  void backward(const AttentionShape& shape, std::int64_t layer, const Real* qkv, const Real*, const Real* o,
                const Real* dout, Real* dqkv, Real*) override {
    const Walk walk(shape);
    const Real* log_sum = log_sum_.data() + layer * rows(largest_);
    team_.split(shape.batch * shape.heads, 1, [&](std::int64_t begin, std::int64_t end, int thread) {
      for (std::int64_t bh = begin; bh < end; ++bh) {
        for (std::int64_t i = 0; i < shape.seq; ++i)
          for (const std::int64_t part : {std::int64_t{1}, std::int64_t{2}})
            std::fill_n(dqkv + walk.offset(bh, i, part), shape.head_dim, Real{0});
        for (std::int64_t i = 0; i < shape.seq; i += query_block)
          backward_block(walk, thread, qkv, log_sum, o, dout, bh, i, dqkv);
      }
    });
  }

  void start(std::int64_t tokens) override {
    const std::size_t needed =
        static_cast<std::size_t>(layers_ * largest_.heads * tokens * largest_.head_dim);
    keys_.resize(std::max(keys_.size(), needed));
    values_.resize(keys_.size());
    weights_.resize(std::max(weights_.size(), static_cast<std::size_t>(largest_.heads * tokens)));
    capacity_ = tokens;
    lengths_.assign(static_cast<std::size_t>(layers_), 0);
  }

  void step(std::int64_t layer, const Real* qkv, const Real*, Real* o) override {
    const std::int64_t dim = largest_.head_dim, heads = largest_.heads;
    const std::int64_t length = ++lengths_[static_cast<std::size_t>(layer)];
    // Below about 20 us of work per head, waking the other threads costs more than they bring.
    const std::int64_t heads_per_thread = length * dim < (1 << 17) ? heads : 1;
    team_.split(heads, heads_per_thread, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t h = begin; h < end; ++h) {
        const std::int64_t cache = (layer * heads + h) * capacity_ * dim;
        Real *k = keys_.data() + cache, *v = values_.data() + cache, *p = weights_.data() + h * capacity_;
        for (std::int64_t c = 0; c < dim; ++c) {
          k[c * capacity_ + length - 1] = qkv[(heads + h) * dim + c];
          v[c * capacity_ + length - 1] = qkv[(2 * heads + h) * dim + c];
        }
        std::fill_n(p, length, Real{0});
        for (std::int64_t c = 0; c < dim; ++c) {
          const Real q = qkv[h * dim + c];
          for (std::int64_t j = 0; j < length; ++j) p[j] += q * k[c * capacity_ + j];
        }
        softmax_row(p, length, length);
        for (std::int64_t c = 0; c < dim; ++c) o[h * dim + c] = dot(length, p, v + c * capacity_);
      }
    });
  }

 private:
  static constexpr std::int64_t query_block = 48;  // a multiple of every tile height of multiply.hpp

  /// Where rows of qkv and of o lie.
  struct Walk {
    explicit Walk(const AttentionShape& s)
        : shape(s), qkv_row(3 * s.heads * s.head_dim), o_row(s.heads * s.head_dim) {}
    std::int64_t offset(std::int64_t bh, std::int64_t i, std::int64_t part) const {
      return (bh / shape.heads * shape.seq + i) * qkv_row + part * o_row + bh % shape.heads * shape.head_dim;
    }
    std::int64_t o_offset(std::int64_t bh, std::int64_t i) const {
      return (bh / shape.heads * shape.seq + i) * o_row + bh % shape.heads * shape.head_dim;
    }
    Matrix<Real> q(const Real* qkv, std::int64_t bh, std::int64_t i) const {
      return {qkv + offset(bh, i, 0), qkv_row};
    }
    Matrix<Real> k(const Real* qkv, std::int64_t bh, std::int64_t i) const {
      return {qkv + offset(bh, i, 1), qkv_row};
    }
    Matrix<Real> v(const Real* qkv, std::int64_t bh, std::int64_t i) const {
      return {qkv + offset(bh, i, 2), qkv_row};
    }
    AttentionShape shape;
    std::int64_t qkv_row, o_row;
  };

  static std::int64_t rows(const AttentionShape& shape) { return shape.batch * shape.heads * shape.seq; }
  Real* scratch(int thread, int which) {
    return scratch_.data() + (thread * 2 + which) * query_block * largest_.seq;
  }

  /// q k^T of queries [i, i + count) and the keys up to the last of them.
  void scores(const Walk& walk, int thread, const Real* qkv, std::int64_t bh, std::int64_t i,
              std::int64_t count, Real* s) {
    multipliers_.of_thread(thread)(count, i + count, walk.shape.head_dim, walk.q(qkv, bh, i),
                                   walk.k(qkv, bh, 0).transposed(), s, i + count, Store::overwrite);
  }

  /// Scores to weights over the first `visible` of `count` keys, 0 after them; returns ln sum exp(scaled
  /// score).
  Real softmax_row(Real* p, std::int64_t visible, std::int64_t count) const {
    const Real largest = maximum(visible, p), scale = scale_;
    for (std::int64_t j = 0; j < visible; ++j) p[j] = exponential((p[j] - largest) * scale);
    const Real all = sum(visible, p), inverse = 1 / all;
    for (std::int64_t j = 0; j < visible; ++j) p[j] *= inverse;
    std::fill(p + visible, p + count, Real{0});
    return largest * scale + std::log(all);
  }

  /// Adds one block of queries to dk and dv, and writes its dq: with P the weights,
  /// dV = P^T dO, dS = P * (dO V^T - rows of (o . dout)) / sqrt(head_dim), dQ = dS K, dK = dS^T Q.
  void backward_block(const Walk& walk, int thread, const Real* qkv, const Real* log_sum, const Real* o,
                      const Real* dout, std::int64_t bh, std::int64_t i, Real* dqkv) {
    const AttentionShape& shape = walk.shape;
    const std::int64_t count = std::min(query_block, shape.seq - i), visible = i + count,
                       dim = shape.head_dim;
    Multiplier<Real>& multiply = multipliers_.of_thread(thread);
    Real *p = scratch(thread, 0), *ds = scratch(thread, 1);
    const Real scale = scale_;  // a copy, which no store can change
    const Matrix<Real> dout_block{dout + walk.o_offset(bh, i), walk.o_row};
    scores(walk, thread, qkv, bh, i, count, p);
    multiply(count, visible, dim, dout_block, walk.v(qkv, bh, 0).transposed(), ds, visible, Store::overwrite);
    for (std::int64_t r = 0; r < count; ++r) {
      const std::int64_t o_offset = walk.o_offset(bh, i + r);
      const Real projection = dot(dim, o + o_offset, dout + o_offset);
      const Real shift = log_sum[bh * shape.seq + i + r];
      Real *p_row = p + r * visible, *ds_row = ds + r * visible;
      for (std::int64_t j = 0; j <= i + r; ++j) {
        p_row[j] = exponential(p_row[j] * scale - shift);
        ds_row[j] = p_row[j] * (ds_row[j] - projection) * scale;
      }
      std::fill(p_row + i + r + 1, p_row + visible, Real{0});
      std::fill(ds_row + i + r + 1, ds_row + visible, Real{0});
    }
    const Matrix<Real> p_block{p, visible}, ds_block{ds, visible};
    const auto out = [&](std::int64_t row, std::int64_t part) { return dqkv + walk.offset(bh, row, part); };
    multiply(visible, dim, count, p_block.transposed(), dout_block, out(0, 2), walk.qkv_row, Store::add);
    multiply(visible, dim, count, ds_block.transposed(), walk.q(qkv, bh, i), out(0, 1), walk.qkv_row,
             Store::add);
    multiply(count, dim, visible, ds_block, walk.k(qkv, bh, 0), out(i, 0), walk.qkv_row, Store::overwrite);
  }

  Team& team_;
  Multipliers<Real>& multipliers_;
  std::int64_t layers_;
  AttentionShape largest_;
  Real scale_;
  std::vector<Real> log_sum_;  // (layers, batch, heads, seq)
  std::vector<Real> scratch_;  // (threads, 2, query_block, seq)
  // The cache, transposed, so that loops over its tokens are vectors.
  std::vector<Real> keys_, values_;  // (layers, heads, head_dim, capacity)
  std::vector<Real> weights_;        // (heads, capacity)
  std::vector<std::int64_t> lengths_;
  std::int64_t capacity_ = 0;
};

}  // namespace char_lm
