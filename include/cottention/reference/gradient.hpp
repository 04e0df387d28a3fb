// The gradients of cosine attention in linear time, from a prefix state S and a suffix state D.
#pragma once

#include <cstdint>
#include <vector>

#include <cottention/reference/input.hpp>

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::reference {

/// Results in double, contiguous; shapes as in BackwardArguments, packed tensors without the batch axis.
struct Gradient {
  std::vector<double> dq, dk, dv, dscale_logit, dinitial_state;
};

/// The gradient with respect to x where `hat` = norm(x) and `dhat` is the gradient with respect to it. The
/// part of `dhat` along x cannot change norm(x), except where the norm is below epsilon and norm(x) is
/// linear.
template <class R>
void norm_backward(const R* x, const R* hat, R* dhat, std::int64_t dim) {
  const R divisor = norm_divisor(x, dim);
  const R coefficient = divisor <= R(norm_epsilon) ? R(0) : dot(hat, dhat, dim);
  for (std::int64_t d = 0; d < dim; ++d) dhat[d] = (dhat[d] - hat[d] * coefficient) / divisor;
}

/// y = state x: (rows)
template <class R>
std::vector<R> multiply(const Matrix<R>& state, const R* x, std::int64_t rows, std::int64_t columns) {
  std::vector<R> y(static_cast<std::size_t>(rows));
  for (std::int64_t d = 0; d < rows; ++d) y.data()[d] = dot(state[d], x, columns);
  return y;
}

/// y = state^T x: (columns)
template <class R>
std::vector<R> multiply_transposed(const Matrix<R>& state, const R* x, std::int64_t rows,
                                   std::int64_t columns) {
  std::vector<R> y(static_cast<std::size_t>(columns));
  add_product_transposed(state, x, y.data(), rows, columns);
  return y;
}

/// The gradients of key head `h` of sequence `b` and of the query heads that read it. With g^_i = w_i g_i the
/// upstream gradient of the unweighted row, v^_j = w_j v_j, and hats for normalised rows:
///
///     S_i = h_0 + sum over visible j of k^_j v^_j^T            dq^_i = S_i g^_i
///     D_j = dh + sum over i that see j of q^_i g^_i^T          dk^_j = D_j v^_j        dv_j = w_j D_j^T k^_j
///
/// and dL/dh_0 is D before the first key. The weights give dm = -sigmoid'(m) times
///
///     sum over j of ln(max(n_j, 1)) k^_j . dk^_j               by key
///     sum over i of ln(max(n_i, 1)) q^_i . dq^_i               by query
template <AnyProblem P>
class HeadGradient {
  using T = typename P::element;
  using R = Real<T>;

 public:
  HeadGradient(const BackwardArguments<T>& args, std::int64_t b, std::int64_t h, Gradient& out)
      : args_(args),
        shape_(args.shape),
        queries_(query_positions(args)),
        keys_(key_positions(args)),
        b_(b),
        h_(h),
        group_(shape_.heads_q / shape_.heads_kv),
        counts_(args, keys_, b),
        weights_(counts_, args.scale_logit, h),
        k_(read(args.k, keys_, b, shape_.heads_kv, h, shape_.dim_qk)),
        k_hat_(normalise(k_, keys_.length(b), shape_.dim_qk)),
        v_hat_(read(args.v, keys_, b, shape_.heads_kv, h, shape_.dim_v)),
        out_(out) {
    weigh_keys(v_hat_, weights_, keys_.length(b), shape_.dim_v);
    for (std::int64_t group_head = 0; group_head < group_; ++group_head) {
      const std::int64_t head = h * group_ + group_head;
      q_.push_back(read(args.q, queries_, b, shape_.heads_q, head, shape_.dim_qk));
      q_hat_.push_back(normalise(q_.back(), queries_.length(b), shape_.dim_qk));
      g_hat_.push_back(read(args.dout, queries_, b, shape_.heads_q, head, shape_.dim_v));
      for (std::int64_t i = 0; i < queries_.length(b); ++i)
        for (std::int64_t e = 0; e < shape_.dim_v; ++e) g_hat_.back()[i][e] *= weights_.query(i);
    }
  }

  HeadGradient(const HeadGradient&) = delete;  // weights_ refers to counts_
  HeadGradient& operator=(const HeadGradient&) = delete;

  void run() {
    Matrix<R> prefix = read_state<R>(args_.initial_state.h, shape_, b_, h_);  // S, (dim_qk, dim_v)
    Matrix<R> suffix = read_state<R>(args_.dfinal_state, shape_, b_, h_);     // D, (dim_qk, dim_v)
    const std::int64_t seq_q = queries_.length(b_), seq_k = keys_.length(b_);
    if constexpr (P::mask == Mask::causal) {
      for (std::int64_t t = 0; t < seq_k; ++t) {
        absorb_key(prefix, t);
        query_gradient(prefix, t);
      }
      for (std::int64_t t = seq_k - 1; t >= 0; --t) {
        absorb_query(suffix, t);
        key_gradient(suffix, t);
      }
    } else {
      for (std::int64_t j = 0; j < seq_k; ++j) absorb_key(prefix, j);
      for (std::int64_t i = 0; i < seq_q; ++i) query_gradient(prefix, i);
      for (std::int64_t i = 0; i < seq_q; ++i) absorb_query(suffix, i);
      for (std::int64_t j = 0; j < seq_k; ++j) key_gradient(suffix, j);
    }
    store(suffix[0], shape_.dim_qk * shape_.dim_v, out_.dinitial_state, b_ * shape_.heads_kv + h_);
  }

  /// dL/dm from this sequence.
  R dscale_logit() const {
    if (P::scale == Scale::none || !args_.scale_logit.given()) return 0;
    return -sigmoid_slope(R(args_.scale_logit[h_])) * log_count_sum_;
  }

 private:
  void absorb_key(Matrix<R>& prefix, std::int64_t j) const {
    if (keys_.valid(b_, j)) add_outer_product(prefix, k_hat_[j], v_hat_[j], shape_.dim_qk, shape_.dim_v);
  }

  void absorb_query(Matrix<R>& suffix, std::int64_t i) const {
    if (!queries_.valid(b_, i)) return;
    for (std::int64_t group_head = 0; group_head < group_; ++group_head)
      add_outer_product(suffix, q_hat_.data()[group_head][i], g_hat_.data()[group_head][i], shape_.dim_qk,
                        shape_.dim_v);
  }

  void query_gradient(const Matrix<R>& prefix, std::int64_t i) {
    if (!queries_.valid(b_, i)) return;
    for (std::int64_t group_head = 0; group_head < group_; ++group_head) {
      const R* q_hat = q_hat_.data()[group_head][i];
      std::vector<R> dq = multiply(prefix, g_hat_.data()[group_head][i], shape_.dim_qk, shape_.dim_v);
      if (P::scale == Scale::by_query)
        log_count_sum_ += weights_.log_count(i) * dot(q_hat, dq.data(), shape_.dim_qk);
      norm_backward(q_.data()[group_head][i], q_hat, dq.data(), shape_.dim_qk);
      store(dq.data(), shape_.dim_qk, out_.dq,
            queries_.index(b_, i) * shape_.heads_q + h_ * group_ + group_head);
    }
  }

  void key_gradient(const Matrix<R>& suffix, std::int64_t j) {
    if (!keys_.valid(b_, j)) return;
    const std::int64_t row = keys_.index(b_, j) * shape_.heads_kv + h_;

    std::vector<R> dk = multiply(suffix, v_hat_[j], shape_.dim_qk, shape_.dim_v);
    if (P::scale == Scale::by_key)
      log_count_sum_ += weights_.log_count(j) * dot(k_hat_[j], dk.data(), shape_.dim_qk);
    norm_backward(k_[j], k_hat_[j], dk.data(), shape_.dim_qk);
    store(dk.data(), shape_.dim_qk, out_.dk, row);

    std::vector<R> dv = multiply_transposed(suffix, k_hat_[j], shape_.dim_qk, shape_.dim_v);
    for (R& x : dv) x *= weights_.key(j);
    store(dv.data(), shape_.dim_v, out_.dv, row);
  }

  const BackwardArguments<T>& args_;
  const Shape& shape_;
  Positions queries_, keys_;
  std::int64_t b_, h_, group_;
  Counts<P::mask> counts_;
  Weights<P> weights_;
  Matrix<R> k_, k_hat_, v_hat_;               // (seq_k, dim_qk), (seq_k, dim_qk), (seq_k, dim_v)
  std::vector<Matrix<R>> q_, q_hat_, g_hat_;  // (group) of (seq_q, dim_qk), (seq_q, dim_qk), (seq_q, dim_v)
  R log_count_sum_ = 0;
  Gradient& out_;
};

/// All gradients. `args` must be valid; its output pointers are ignored.
template <AnyProblem P>
Gradient backward(const BackwardArguments<typename P::element>& args) {
  using R = Real<typename P::element>;
  const Shape& shape = args.shape;
  const std::int64_t query_rows = query_positions(args).total() * shape.heads_q;
  const std::int64_t key_rows = key_positions(args).total() * shape.heads_kv;
  Gradient out{.dq = zeros(query_rows * shape.dim_qk),
               .dk = zeros(key_rows * shape.dim_qk),
               .dv = zeros(key_rows * shape.dim_v),
               .dscale_logit = zeros(shape.heads_kv),
               .dinitial_state = zeros(shape.batch * shape.heads_kv * shape.dim_qk * shape.dim_v)};
  for (std::int64_t h = 0; h < shape.heads_kv; ++h) {
    R dscale_logit = 0;
    for (std::int64_t b = 0; b < shape.batch; ++b) {
      HeadGradient<P> head(args, b, h, out);
      head.run();
      dscale_logit += head.dscale_logit();
    }
    store(&dscale_logit, 1, out.dscale_logit, h);
  }
  return out;
}

}  // namespace cottention::reference

#if defined(__clang__)
#pragma float_control(pop)
#endif
