// Random inputs for a described case.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <cottention/arguments.hpp>

#include "support/buffer.hpp"
#include "support/extents.hpp"
#include "support/random.hpp"

namespace support {

/// Which positions are masked. Rows of masked positions hold NaN or infinity. The first sequence keeps at
/// least half of its tokens.
enum class Padding {
  none,
  left,
  right,
  middle,     ///< a run somewhere, and a fifth of the others
  unrelated,  ///< as `middle`, drawn apart for queries and keys
};

/// What rows of q and k are like. v and dout are normal.
enum class Rows {
  normal,
  correlated,  ///< q, k, v and dout share a direction, so that the state grows with the length
  small,       ///< norms of about half of epsilon; in fp16, normal
  tiny,        ///< norms far below epsilon; in fp16, as small as gradients, which grow by as much, allow
  huge,        ///< sums of squares overflow; in fp16, as large as gradients, which shrink by as much, allow
  equal,       ///< every element of q and k is the same, so that the roundings of their sums lean one way
  mixed,       ///< normal, tiny, huge, small and zero rows; no zeros in fp16, where gradients of zero rows
               ///< overflow
};

enum class OffsetType { int64, int32 };
enum class Presence { absent, present };

struct Case {
  cottention::Mask mask = cottention::Mask::causal;
  cottention::Scale scale = cottention::Scale::by_key;
  Extents shape{};
  std::vector<std::int64_t> lengths_q{};  ///< not empty: packed; shape's batch and seq follow from it
  std::vector<std::int64_t> lengths_k{};  ///< empty: those of q
  std::int64_t trailing_q = 0;            ///< packed: tokens behind the last sequence, all NaN
  std::int64_t trailing_k = 0;
  OffsetType offset_type = OffsetType::int64;
  Padding padding = Padding::none;
  Layout layout = Layout::bshd;
  Rows rows = Rows::normal;
  Presence initial_state = Presence::absent;
  std::uint64_t seed = 1;

  bool packed() const { return !lengths_q.empty(); }
};

inline const char* name(cottention::Mask mask) {
  return mask == cottention::Mask::causal ? "causal" : "bidirectional";
}

inline const char* name(cottention::Scale scale) {
  return scale == cottention::Scale::none     ? "none"
         : scale == cottention::Scale::by_key ? "by_key"
                                              : "by_query";
}

/// One line that says how to repeat the case.
template <cottention::Element T>
std::string describe(const Case& c) {
  const auto list = [](const std::vector<std::int64_t>& lengths) {
    std::string text;
    for (const std::int64_t length : lengths) text += (text.empty() ? "" : ",") + std::to_string(length);
    return text;
  };
  const Extents& s = c.shape;
  std::string text = std::string(cottention::element_name<T>) + ' ' + name(c.mask) + ' ' + name(c.scale);
  if (c.packed())
    text += ", packed " + list(c.lengths_q) + (c.lengths_k.empty() ? "" : " / " + list(c.lengths_k)) +
            (c.offset_type == OffsetType::int32 ? " int32" : " int64") + ", trailing " +
            std::to_string(c.trailing_q) + " / " + std::to_string(c.trailing_k);
  else
    text += ", batch " + std::to_string(s.batch) + ", seq " + std::to_string(s.seq_q) + " / " +
            std::to_string(s.seq_k);
  text += ", heads " + std::to_string(s.heads_q) + " / " + std::to_string(s.heads_kv) + ", dims " +
          std::to_string(s.dim_qk) + " / " + std::to_string(s.dim_v);
  constexpr const char* paddings[] = {"no", "left", "right", "middle", "unrelated"};
  constexpr const char* layouts[] = {"bshd", "bhsd", "gaps", "aligned gaps"};
  constexpr const char* rows[] = {"normal", "correlated", "small", "tiny", "huge", "equal", "mixed"};
  text += std::string(", ") + paddings[static_cast<int>(c.padding)] + " padding, " +
          layouts[static_cast<int>(c.layout)] + ", " + rows[static_cast<int>(c.rows)] + " rows";
  if (c.initial_state == Presence::present) text += ", initial state";
  return text + ", seed " + std::to_string(c.seed);
}

template <cottention::Element T>
T from_double(double x) {
  if constexpr (sizeof(T) == 2)
    return static_cast<T>(static_cast<float>(x));
  else
    return static_cast<T>(x);
}

/// Factors that make rows small, tiny and huge in the sense of `Rows`.
template <cottention::Element T>
double small_factor(std::int64_t dim) {
  if (std::same_as<T, cottention::half>) return 1;
  return 0.5 * cottention::norm_epsilon / std::sqrt(static_cast<double>(dim));
}
template <cottention::Element T>
inline constexpr double tiny_factor = std::same_as<T, cottention::half> ? 0x1p-8 : 1e-20;
template <cottention::Element T>
inline constexpr double huge_factor = std::same_as<T, double>             ? 1e160
                                      : std::same_as<T, cottention::half> ? 0x1p6
                                                                          : 1e25;

/// The inputs of a forward and a backward call.
template <cottention::Element T>
class Inputs {
  using A = cottention::Accumulate<T>;

 public:
  explicit Inputs(Case description) : case_(std::move(description)), random_(case_.seed) {
    lay_out_sequences();
    make_tensors();
    make_states();
    make_masks();
    spoil_trailing();
    for (std::int64_t h = 0; h < shape().heads_kv; ++h)
      scale_logit_.push_back(static_cast<A>(3 * random_.uniform() - 1));
  }

  const Case& description() const { return case_; }
  const Extents& shape() const { return case_.shape; }

  TensorBuffer<T>& q() { return *q_; }
  TensorBuffer<T>& k() { return *k_; }
  TensorBuffer<T>& v() { return *v_; }
  TensorBuffer<T>& dout() { return *dout_; }
  std::vector<A>& initial_state() { return initial_h_; }
  std::vector<std::int64_t>& initial_count() { return initial_count_; }
  std::vector<A>& scale_logit() { return scale_logit_; }
  std::vector<A>& dfinal_state() { return dfinal_state_; }

  /// Start of sequence b on the axis of positions, and its length.
  std::int64_t start_q(std::int64_t b) const { return starts_q_.data()[b]; }
  std::int64_t start_k(std::int64_t b) const { return starts_k_.data()[b]; }
  std::int64_t length_q(std::int64_t b) const { return starts_q_.data()[b + 1] - start_q(b); }
  std::int64_t length_k(std::int64_t b) const { return starts_k_.data()[b + 1] - start_k(b); }

  /// All inputs; no outputs.
  cottention::ForwardArguments<T> forward() const {
    cottention::ForwardArguments<T> args;
    fill(args);
    return args;
  }

  cottention::BackwardArguments<T> backward() const {
    cottention::BackwardArguments<T> args;
    fill(args);
    args.dout = std::as_const(*dout_).view();
    args.dfinal_state = dfinal_state_.data();
    return args;
  }

 private:
  template <class Arguments>
  void fill(Arguments& args) const {
    args.shape = shape();
    args.q = std::as_const(*q_).view();
    args.k = std::as_const(*k_).view();
    args.v = std::as_const(*v_).view();
    args.scale_logit = scale_logit_.data();
    if (case_.padding != Padding::none) {
      args.query_mask = query_mask_.data();
      args.key_mask = key_mask_.data();
    }
    if (case_.packed()) {
      const bool narrow = case_.offset_type == OffsetType::int32;
      args.cu_seqlens_q =
          narrow ? cottention::Offsets(narrow_q_.data()) : cottention::Offsets(starts_q_.data());
      args.cu_seqlens_k =
          narrow ? cottention::Offsets(narrow_k_.data()) : cottention::Offsets(starts_k_.data());
    }
    if (case_.initial_state == Presence::present)
      args.initial_state = {initial_h_.data(), initial_count_.data()};
  }

  void lay_out_sequences() {
    Extents& s = case_.shape;
    const std::vector<std::int64_t>& lengths_k = case_.lengths_k.empty() ? case_.lengths_q : case_.lengths_k;
    if (case_.packed()) s.batch = static_cast<std::int64_t>(case_.lengths_q.size());
    starts_q_ = starts_k_ = {0};
    for (std::int64_t b = 0; b < s.batch; ++b) {
      starts_q_.push_back(starts_q_.back() + (case_.packed() ? case_.lengths_q.data()[b] : s.seq_q));
      starts_k_.push_back(starts_k_.back() + (case_.packed() ? lengths_k.data()[b] : s.seq_k));
    }
    if (case_.packed()) {
      s.seq_q = starts_q_.back() + case_.trailing_q;
      s.seq_k = starts_k_.back() + case_.trailing_k;
    }
    for (const std::int64_t start : starts_q_) narrow_q_.push_back(static_cast<std::int32_t>(start));
    for (const std::int64_t start : starts_k_) narrow_k_.push_back(static_cast<std::int32_t>(start));
  }

  void make_tensors() {
    const Extents& s = shape();
    const std::int64_t batch = case_.packed() ? 1 : s.batch;
    q_.emplace(case_.layout, batch, s.seq_q, s.heads_q, s.dim_qk);
    k_.emplace(case_.layout, batch, s.seq_k, s.heads_kv, s.dim_qk);
    v_.emplace(case_.layout, batch, s.seq_k, s.heads_kv, s.dim_v);
    dout_.emplace(case_.layout, batch, s.seq_q, s.heads_q, s.dim_v);
    for (TensorBuffer<T>* x : {&*q_, &*k_}) fill_rows(*x, case_.rows);
    const Rows rows = case_.rows == Rows::correlated ? Rows::correlated : Rows::normal;
    fill_rows(*v_, rows);
    fill_rows(*dout_, rows);
    if constexpr (std::same_as<T, cottention::half>) {
      // Sums of 131,072 rows with a common direction are past fp16's range.
      const double factor = rows == Rows::correlated ? 0x1p-4 : 1;
      for (std::int64_t row = 0; row < dout_->positions() * s.heads_q; ++row)
        for (std::int64_t e = 0; e < s.dim_v; ++e) {
          T& x = dout_->row(row / s.heads_q, row % s.heads_q)[e];
          x = from_double<T>(cottention::to_double(x) * factor);
        }
    }
  }

  /// What no call may read, not even to look at: a signalling NaN.
  static T nothing() {
    using Bits = std::conditional_t<sizeof(T) == 2, std::uint16_t,
                                    std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>>;
    constexpr Bits bits = std::same_as<T, double>                 ? static_cast<Bits>(0x7ff4000000000000)
                          : std::same_as<T, cottention::half>     ? static_cast<Bits>(0x7d00)
                          : std::same_as<T, cottention::bfloat16> ? static_cast<Bits>(0x7fa0)
                                                                  : static_cast<Bits>(0x7fa00000);
    return std::bit_cast<T>(bits);
  }
  void spoil_row(TensorBuffer<T>& x, std::int64_t position, T value) {
    for (std::int64_t h = 0; h < x.heads(); ++h) std::fill_n(x.row(position, h), x.dim(), value);
  }
  void spoil_trailing() {
    for (std::int64_t t = starts_q_.back(); case_.packed() && t < shape().seq_q; ++t)
      for (TensorBuffer<T>* x : {&*q_, &*dout_}) spoil_row(*x, t, nothing());
    for (std::int64_t t = starts_k_.back(); case_.packed() && t < shape().seq_k; ++t)
      for (TensorBuffer<T>* x : {&*k_, &*v_}) spoil_row(*x, t, nothing());
  }

  void fill_rows(TensorBuffer<T>& x, Rows rows) {
    for (std::int64_t position = 0; position < x.positions(); ++position)
      for (std::int64_t h = 0; h < x.heads(); ++h) {
        const Rows kind =
            rows == Rows::mixed ? mixture[random_.below(std::same_as<T, cottention::half> ? 4 : 5)] : rows;
        const double factor = kind == Rows::small   ? small_factor<T>(x.dim())
                              : kind == Rows::tiny  ? tiny_factor<T>
                              : kind == Rows::huge  ? huge_factor<T>
                              : kind == Rows::mixed ? 0
                                                    : 1;
        for (std::int64_t d = 0; d < x.dim(); ++d) {
          const double normal = random_.normal();
          x.row(position, h)[d] = from_double<T>(kind == Rows::correlated ? 1 + 0.5 * normal
                                                 : kind == Rows::equal    ? 0.7
                                                                          : factor * normal);
        }
      }
  }

  void make_states() {
    const Extents& s = shape();
    for (std::int64_t i = 0; i < s.batch * s.heads_kv * s.dim_qk * s.dim_v; ++i) {
      initial_h_.push_back(static_cast<A>(random_.normal()));
      dfinal_state_.push_back(static_cast<A>(random_.normal()));
    }
    for (std::int64_t b = 0; b < s.batch; ++b) initial_count_.push_back(random_.below(50));
  }

  void make_masks() {
    const Extents& s = shape();
    const std::int64_t batch = case_.packed() ? 1 : s.batch;
    query_mask_.assign(static_cast<std::size_t>(batch * s.seq_q), 1);
    key_mask_.assign(static_cast<std::size_t>(batch * s.seq_k), 1);
    if (case_.padding == Padding::none) return;
    for (std::int64_t b = 0; b < s.batch; ++b) {
      mask_sequence(query_mask_.data() + start_q(b), length_q(b), b);
      mask_sequence(key_mask_.data() + start_k(b), length_k(b), b);
    }
    const bool self = case_.padding != Padding::unrelated && starts_q_ == starts_k_;
    if (self) query_mask_ = key_mask_;
    for (TensorBuffer<T>* x : {&*q_, &*dout_}) spoil_masked(*x, query_mask_);
    for (TensorBuffer<T>* x : {&*k_, &*v_}) spoil_masked(*x, key_mask_);
  }

  void mask_sequence(std::uint8_t* mask, std::int64_t length, std::int64_t b) {
    const std::int64_t run = b == 0 ? length / 3 : random_.below(length + 1);
    const std::int64_t begin = case_.padding == Padding::left    ? 0
                               : case_.padding == Padding::right ? length - run
                                                                 : random_.below(length - run + 1);
    for (std::int64_t i = begin; i < begin + run; ++i) mask[i] = 0;
    if (case_.padding != Padding::middle && case_.padding != Padding::unrelated) return;
    for (std::int64_t i = 0; i < length; ++i)
      if (random_.uniform() < 0.2) mask[i] = 0;
  }

  void spoil_masked(TensorBuffer<T>& x, const std::vector<std::uint8_t>& mask) {
    for (std::int64_t position = 0; position < x.positions(); ++position)
      if (mask.data()[position] == 0)
        spoil_row(x, position,
                  position % 2 == 0 ? nothing() : from_double<T>(std::numeric_limits<double>::infinity()));
  }

  static constexpr Rows mixture[] = {Rows::normal, Rows::tiny, Rows::huge, Rows::small,
                                     Rows::mixed};  // the last: zero

  Case case_;
  Random random_;
  std::vector<std::int64_t> starts_q_, starts_k_;  // (batch + 1)
  std::vector<std::int32_t> narrow_q_, narrow_k_;
  std::optional<TensorBuffer<T>> q_, k_, v_, dout_;
  std::vector<A> initial_h_, dfinal_state_;
  std::vector<std::int64_t> initial_count_;
  std::vector<std::uint8_t> query_mask_, key_mask_;
  std::vector<A> scale_logit_;
};

/// Puts rows of `dim` elements into x and y whose product is far below those of their elements.
template <cottention::Element T>
void make_nearly_orthogonal(T* x, T* y, std::int64_t dim, double size) {
  const double step = std::same_as<T, cottention::bfloat16> ? 0x1p-2 : 0x1p-5;  // of T, from 32 to 64
  for (std::int64_t d = 0; d < dim; ++d) {
    x[d] = from_double<T>(0.5);
    y[d] = from_double<T>(d == 0 ? size + step : d % 2 == 0 ? size : -size);
  }
}

}  // namespace support
