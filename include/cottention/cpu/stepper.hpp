// The recurrent update of one head's state.
#if !defined(COTTENTION_CPU_STEPPER_HPP)
#define COTTENTION_CPU_STEPPER_HPP

#include <cottention/cpu/counter.hpp>
#include <cottention/cpu/multiply.hpp>
#include <cottention/cpu/rows.hpp>
#include <cottention/cpu/step_workspace.hpp>
#include <cottention/cpu/weights.hpp>

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::cpu::COTTENTION_CPU_TARGET {

/// Advances the state of one head of one lane.
template <AnyProblem P, int vector_bytes>
class Stepper {
 public:
  using T = typename P::element;
  using A = Accumulate<T>;
  using S = Simd<A, vector_bytes>;

  Stepper(const StepArguments<T>& args, std::byte* scratch)
      : args_(args),
        tokens_(args.shape.seq_q),
        group_(args.shape.heads_q / args.shape.heads_kv),
        pitch_qk_(row_pitch(args.shape.dim_qk)),
        pitch_v_(row_pitch(args.shape.dim_v)) {
    Carver carver(scratch);
    const auto x = StepScratch<A>::take(carver, args.shape);
    n_ = x.n, weight_ = x.weight, k_ = x.k, v_ = x.v, q_ = x.q, o_ = x.o, partial_ = x.partial;
  }

  void step(std::int64_t lane, std::int64_t kv_head) {
    const Shape& s = args_.shape;
    const std::int64_t slot = cottention::detail::slot_of(args_.slot, lane);
    if (slot < 0) return;
    accepted_ = args_.accepted == nullptr ? tokens_ : args_.accepted[lane];
    const bool scaled = P::scale != Scale::none && args_.scale_logit.given();
    if (scaled) {
      const double count = static_cast<double>(args_.pool.count[slot]);
      for (std::int64_t t = 0; t < row_pitch(tokens_); ++t) n_[t] = count + static_cast<double>(t + 1);
      weights_of_counts<A, vector_bytes>(n_, static_cast<int>(tokens_),
                                         sigmoid(static_cast<double>(args_.scale_logit[kv_head])), weight_);
    }
    pack<Norm::normalize>(args_.k, lane, kv_head, s.heads_kv, s.dim_qk, nullptr, k_, pitch_qk_);
    pack<Norm::keep>(args_.v, lane, kv_head, s.heads_kv, s.dim_v,
                     scaled && P::scale == Scale::by_key ? weight_ : nullptr, v_, pitch_v_);
    const bool outputs = args_.o.data != nullptr;
    if (outputs)
      for (std::int64_t g = 0; g < group_; ++g)
        pack<Norm::normalize>(args_.q, lane, kv_head * group_ + g, s.heads_q, s.dim_qk, nullptr,
                              q_ + g * tokens_ * pitch_qk_, pitch_qk_);
    A* h = args_.pool.h + (slot * s.heads_kv + kv_head) * s.dim_qk * s.dim_v;
    if (outputs && tokens_ == 1 && group_ == 1 && accepted_ == 1)
      advance_one(h);
    else
      advance_many(h, outputs);
    if (!outputs) return;
    const A* weight = scaled && P::scale == Scale::by_query ? weight_ : nullptr;
    for (std::int64_t g = 0; g < group_; ++g)
      store_rows<S>(rows(args_.o, lane, kv_head * group_ + g, s.heads_q, s.dim_v), static_cast<int>(tokens_),
                    o_ + g * tokens_ * pitch_v_, pitch_v_, weight);
  }

 private:
  template <class E>
  RowView<E> rows(const Tensor<E>& tensor, std::int64_t lane, std::int64_t head, std::int64_t heads,
                  std::int64_t dim) const {
    const Strides strides = resolve(tensor.strides, tokens_, heads, dim);
    return {tensor.data + lane * strides.batch + head * strides.head, strides.seq, nullptr, 0, dim};
  }

  template <Norm norm>
  void pack(const Tensor<const T>& tensor, std::int64_t lane, std::int64_t head, std::int64_t heads,
            std::int64_t dim, const A* weight, A* packed, std::int64_t pitch) {
    constexpr int at_once = 16;
    const RowView<const T> all = rows(tensor, lane, head, heads, dim);
    alignas(64) A rnorm[at_once];
    for (std::int64_t t = 0; t < tokens_; t += at_once)
      pack_rows<S, at_once, norm, Check::none>(
          all.from(t), static_cast<int>(std::min<std::int64_t>(at_once, tokens_ - t)),
          weight == nullptr ? nullptr : weight + t, packed + t * pitch, pitch, rnorm);
  }

  /// One token and one query head: h += k v^T and o = h^T q in one pass over h, with o in registers.
  void advance_one(A* h) {
    const std::ptrdiff_t dim_qk = args_.shape.dim_qk, dim_v = args_.shape.dim_v;
    const std::ptrdiff_t whole = dim_v / S::lanes * S::lanes;
    const A *const keys = k_, *const queries = q_;
    for_column_blocks<S, vector_bytes == 64 ? 8 : 4>(whole, [&]<int vectors>(std::ptrdiff_t column) {
      typename S::Vector v[vectors];
#pragma GCC unroll 8
      for (int c = 0; c < vectors; ++c) v[c] = S::load(v_ + column + c * S::lanes);
      for (std::ptrdiff_t first = 0; first < dim_qk; first += step_run_terms) {
        typename S::Vector run[vectors] = {};
        const std::ptrdiff_t last = (std::min)(dim_qk, first + step_run_terms);
        for (std::ptrdiff_t row = first; row < last; ++row) {
          A* at = h + row * dim_v + column;
          const typename S::Vector k = S::splat(keys[row]), q = S::splat(queries[row]);
#pragma GCC unroll 8
          for (int c = 0; c < vectors; ++c) {
            const typename S::Vector x = S::load(at + c * S::lanes) + k * v[c];
            S::store(at + c * S::lanes, x);
            run[c] += q * x;
          }
        }
#pragma GCC unroll 8
        for (int c = 0; c < vectors; ++c)
          add_run(run[c], first, o_ + column + c * S::lanes, partial_ + c * S::lanes);
      }
    });
    if (whole < dim_v) advance_columns(h, whole, static_cast<int>(dim_v - whole), true);
  }

  /// Any number of tokens and query heads: one pass over h, a vector of columns at a time.
  void advance_many(A* h, bool outputs) {
    const std::ptrdiff_t dim_v = args_.shape.dim_v;
    for (std::ptrdiff_t column = 0; column < dim_v; column += S::lanes)
      advance_columns(h, column, static_cast<int>(std::min<std::ptrdiff_t>(S::lanes, dim_v - column)),
                      outputs);
  }

  /// Adds the run that starts at row `first` to o, on two levels: in one level, the error would grow with the
  /// number of runs and pass the bounds in the widest heads.
  [[gnu::always_inline]] void add_run(typename S::Vector run, std::ptrdiff_t first, A* o, A* partial) const {
    constexpr std::ptrdiff_t terms_per_partial = 32 * step_run_terms;
    const std::ptrdiff_t next = first + step_run_terms;
    if (first % terms_per_partial != 0) run += S::load(partial);
    if (next % terms_per_partial != 0 && next < args_.shape.dim_qk)
      S::store(partial, run);
    else
      S::store(o, first < terms_per_partial ? run : S::load(o) + run);
  }

  /// Advances `columns` <= S::lanes columns of h by all tokens, one run of rows after the other. h becomes
  /// the state after `accepted_` tokens.
  void advance_columns(A* h, std::ptrdiff_t column, int columns, bool outputs) {
    const std::ptrdiff_t dim_qk = args_.shape.dim_qk, dim_v = args_.shape.dim_v;
    for (std::ptrdiff_t row = 0; row < dim_qk; row += step_run_terms)
      advance_rows(h + row * dim_v + column, row, static_cast<int>((std::min)(step_run_terms, dim_qk - row)),
                   column, columns, outputs);
  }

  /// Advances rows first to first + rows - 1 of these columns, which start at `h`.
  void advance_rows(A* h, std::ptrdiff_t first, int rows, std::ptrdiff_t column, int columns, bool outputs) {
    const std::ptrdiff_t dim_v = args_.shape.dim_v;
    const bool whole = columns == S::lanes;
    typename S::Vector x[step_run_terms];
    for (int row = 0; row < rows; ++row)
      x[row] = whole ? S::load(h + row * dim_v) : S::load_part(h + row * dim_v, columns);
    for (std::int64_t t = 0; t < tokens_; ++t) {
      const typename S::Vector v = S::load(v_ + t * pitch_v_ + column);
      for (int row = 0; row < rows; ++row) x[row] += k_[t * pitch_qk_ + first + row] * v;
      for (int row = 0; t + 1 == accepted_ && row < rows; ++row) {
        if (whole)
          S::store(h + row * dim_v, x[row]);
        else
          S::store_part(h + row * dim_v, x[row], columns);
      }
      for (std::int64_t g = 0; outputs && g < group_; ++g) {
        const std::int64_t r = g * tokens_ + t;
        const A* q = q_ + r * pitch_qk_ + first;
        typename S::Vector run{};
        for (int row = 0; row < rows; ++row) run += q[row] * x[row];
        add_run(run, first, o_ + r * pitch_v_ + column, partial_ + r * S::lanes);
      }
    }
  }

  const StepArguments<T>& args_;
  std::int64_t tokens_, group_, pitch_qk_, pitch_v_;
  std::int64_t accepted_ = 0;
  double* n_;
  A *weight_, *k_, *v_, *q_, *o_, *partial_;
};

}  // namespace cottention::cpu::COTTENTION_CPU_TARGET

#if defined(__clang__)
#pragma float_control(pop)
#endif

#endif
