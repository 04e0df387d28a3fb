// What every reference form reads: rows of strided tensors, positions with their masks, counts and weights.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include <cottention/arguments.hpp>
#include <cottention/pool.hpp>

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::reference {

/// What the reference computes in. double is far more accurate than anything fp32 or a 16-bit type is judged
/// by. fp64 results are judged to 1e-14, closer than plain double sums of 131,072 terms are sure to come, so
/// for those the sums are held in long double: 64 bits of mantissa on x86, 113 on AArch64 Linux.
template <Element T>
using Real = std::conditional_t<std::same_as<T, double>, long double, double>;

template <class R>
class Matrix {
 public:
  Matrix(std::int64_t rows, std::int64_t columns)
      : columns_(columns), values_(static_cast<std::size_t>(rows * columns)) {}

  R* operator[](std::int64_t row) { return values_.data() + row * columns_; }
  const R* operator[](std::int64_t row) const { return values_.data() + row * columns_; }

 private:
  std::int64_t columns_;
  std::vector<R> values_;
};

/// Positions 0 .. length(b) - 1 of each sequence b of a batch, padded or packed, and which hold a token.
class Positions {
 public:
  Positions(std::int64_t batch, std::int64_t seq, Offsets offsets, const std::uint8_t* mask)
      : batch_(batch), seq_(seq), offsets_(offsets), mask_(mask) {}

  std::int64_t length(std::int64_t b) const { return packed() ? offsets_[b + 1] - offsets_[b] : seq_; }

  /// Place of a position in a contiguous [batch, seq] array, or on the token axis.
  std::int64_t index(std::int64_t b, std::int64_t i) const { return (packed() ? offsets_[b] : b * seq_) + i; }

  /// Offset of a position in a tensor, in elements. `strides` are resolved.
  std::int64_t address(std::int64_t b, std::int64_t i, const Strides& strides) const {
    return packed() ? index(b, i) * strides.seq : b * strides.batch + i * strides.seq;
  }

  bool valid(std::int64_t b, std::int64_t i) const { return mask_ == nullptr || mask_[index(b, i)] != 0; }

  bool packed() const { return offsets_.given(); }
  std::int64_t seq() const { return seq_; }
  std::int64_t total() const { return packed() ? seq_ : batch_ * seq_; }

 private:
  std::int64_t batch_, seq_;
  Offsets offsets_;
  const std::uint8_t* mask_;
};

template <class Arguments>
Positions query_positions(const Arguments& args) {
  return {args.shape.batch, args.shape.seq_q, args.cu_seqlens_q, args.query_mask};
}

template <class Arguments>
Positions key_positions(const Arguments& args) {
  return {args.shape.batch, args.shape.seq_k, args.cu_seqlens_k, args.key_mask};
}

/// Rows of head h of sequence b: (length, dim).
template <Element T>
Matrix<Real<T>> read(const Tensor<const T>& x, const Positions& positions, std::int64_t b, std::int64_t heads,
                     std::int64_t h, std::int64_t dim) {
  const Strides strides = resolve(x.strides, positions.seq(), heads, dim);
  Matrix<Real<T>> rows(positions.length(b), dim);
  for (std::int64_t i = 0; i < positions.length(b); ++i) {
    const T* row = x.data + positions.address(b, i, strides) + h * strides.head;
    for (std::int64_t d = 0; d < dim; ++d) rows[i][d] = to_double(row[d]);
  }
  return rows;
}

template <class R>
R dot(const R* a, const R* b, std::int64_t dim) {
  R sum = 0;
  for (std::int64_t d = 0; d < dim; ++d) sum += a[d] * b[d];
  return sum;
}

/// max(||x||, epsilon), what norm(x) divides by. A NaN stays NaN.
template <class R>
R norm_divisor(const R* x, std::int64_t dim) {
  const R norm = std::sqrt(dot(x, x, dim));
  return norm <= R(norm_epsilon) ? R(norm_epsilon) : norm;
}

/// norm(x) of each of the first `rows` rows.
template <class R>
Matrix<R> normalise(Matrix<R> x, std::int64_t rows, std::int64_t dim) {
  for (std::int64_t i = 0; i < rows; ++i) {
    const R divisor = norm_divisor(x[i], dim);
    for (std::int64_t d = 0; d < dim; ++d) x[i][d] /= divisor;
  }
  return x;
}

/// Where sequence b has its initial state; negative: nowhere.
template <class Arguments>
std::int64_t initial_slot(const Arguments& args, std::int64_t b) {
  if constexpr (requires { args.read_slot; }) return cottention::detail::slot_of(args.read_slot, b);
  return b;
}

/// n at every position of sequence b: how many unmasked keys there are up to and including it when causal, in
/// the whole sequence when bidirectional; those that the initial state absorbed are counted too.
template <Mask M>
class Counts {
 public:
  /// Before the first key there are those of the call's initial state.
  template <class Arguments>
  Counts(const Arguments& args, const Positions& keys, std::int64_t b) {
    const std::int64_t slot = initial_slot(args, b);
    if (args.initial_state.count != nullptr && slot >= 0) total_ = args.initial_state.count[slot];
    for (std::int64_t j = 0; j < keys.length(b); ++j) {
      if (keys.valid(b, j)) ++total_;
      running_.push_back(total_);
    }
  }

  std::int64_t at(std::int64_t position) const {
    return M == Mask::causal ? running_.data()[position] : total_;
  }
  std::int64_t total() const { return total_; }

 private:
  std::int64_t total_ = 0;
  std::vector<std::int64_t> running_;
};

template <class R>
R sigmoid(R m) {
  return 1 / (1 + std::exp(-m));
}
/// Its derivative: 1 - sigmoid(m) would lose the digits of large m.
template <class R>
R sigmoid_slope(R m) {
  return sigmoid(m) * sigmoid(-m);
}

/// The weights of one head: w = max(n, 1)^-sigmoid(m) for keys or for queries, whichever P::scale weighs, and
/// 1 for the others.
template <AnyProblem P>
class Weights {
  using R = Real<typename P::element>;

 public:
  /// `scale_logit` may be null where nothing is weighed; a weight that it was needed for is NaN.
  template <class A>
  Weights(const Counts<P::mask>& counts, ScaleLogit<A> scale_logit, std::int64_t h) : counts_(counts) {
    if (P::scale != Scale::none && scale_logit.given()) exponent_ = sigmoid(R(scale_logit[h]));
  }

  R key(std::int64_t j) const { return P::scale == Scale::by_key ? at(j) : R(1); }
  R query(std::int64_t i) const { return P::scale == Scale::by_query ? at(i) : R(1); }

  /// ln(max(n, 1)): dw/dm = -sigmoid'(m) ln(max(n, 1)) w.
  R log_count(std::int64_t position) const { return std::log(clamped(position)); }

 private:
  R at(std::int64_t position) const { return std::pow(clamped(position), -exponent_); }
  R clamped(std::int64_t position) const {
    return static_cast<R>(std::max<std::int64_t>(counts_.at(position), 1));
  }

  const Counts<P::mask>& counts_;
  R exponent_ = std::numeric_limits<R>::quiet_NaN();
};

/// v^_j = w_j v_j, in place.
template <AnyProblem P, class R>
void weigh_keys(Matrix<R>& v, const Weights<P>& weights, std::int64_t length, std::int64_t dim_v) {
  for (std::int64_t j = 0; j < length; ++j) {
    const R w = weights.key(j);
    for (std::int64_t e = 0; e < dim_v; ++e) v[j][e] *= w;
  }
}

/// A state of one head, (dim_qk, dim_v), out of a contiguous [slots, heads_kv, dim_qk, dim_v]; zero where
/// that is null or `slot` is negative.
template <class R, class A>
Matrix<R> read_state(const A* states, const Shape& shape, std::int64_t slot, std::int64_t h) {
  Matrix<R> state(shape.dim_qk, shape.dim_v);
  if (states == nullptr || slot < 0) return state;
  const A* first = states + (slot * shape.heads_kv + h) * shape.dim_qk * shape.dim_v;
  std::copy_n(first, shape.dim_qk * shape.dim_v, state[0]);
  return state;
}

/// state += a b^T
template <class R>
void add_outer_product(Matrix<R>& state, const R* a, const R* b, std::int64_t rows, std::int64_t columns) {
  for (std::int64_t d = 0; d < rows; ++d) {
    R* const row = state[d];
    const R factor = a[d];
    for (std::int64_t e = 0; e < columns; ++e) row[e] += factor * b[e];
  }
}

/// y += state^T x
template <class R>
void add_product_transposed(const Matrix<R>& state, const R* x, R* y, std::int64_t rows,
                            std::int64_t columns) {
  for (std::int64_t d = 0; d < rows; ++d) {
    const R* const row = state[d];
    const R factor = x[d];
    for (std::int64_t e = 0; e < columns; ++e) y[e] += row[e] * factor;
  }
}

/// A result of the reference: contiguous, and zero until it is written.
inline std::vector<double> zeros(std::int64_t count) {
  return std::vector<double>(static_cast<std::size_t>(count));
}

/// Writes one row, or one state, to its index in a result.
template <class R>
void store(const R* from, std::int64_t count, std::vector<double>& to, std::int64_t index) {
  for (std::int64_t d = 0; d < count; ++d) to.data()[index * count + d] = static_cast<double>(from[d]);
}

}  // namespace cottention::reference

#if defined(__clang__)
#pragma float_control(pop)
#endif
