// From the arguments of a call to its walks: the operands a, b and c of each output, where g is the gradient
// with respect to o.
//
//     output   a   b   c   order     epilogue on row i        (order when causal)
//     o        q   k   v   forward   * w_i when scaling by query
//     dq       g   v   k   forward   through the norm of q
//     dk       v   g   q   reverse   through the norm of k
//     dv       k   q   g   reverse   * w_j when scaling by key
//
// q and k are normalised as every operand; v is multiplied by w_j when scaling by key, g by w_i when scaling
// by query.
#pragma once

#include <cottention/arguments.hpp>
#include <cottention/cpu/walk.hpp>

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::cpu {

enum class Side { query, key };
enum class StateLayout { as_is, transposed };

/// A walk with its initial and final states.
template <Element T>
struct WalkTask {
  WalkParams<T> walk;
  const Accumulate<T>* initial = nullptr;           // null: zero
  StateLayout initial_layout = StateLayout::as_is;  // transposed: (dim_c, dim_a) in the caller's memory
  Accumulate<T>* final = nullptr;                   // (dim_a, dim_c), null: not wanted
};

/// One sequence of a batch.
struct Sequence {
  std::int64_t batch = 0;
  std::int64_t start_q = 0, start_k = 0;  // on the token axis of a packed batch, else 0
  std::int64_t length_q = 0, length_k = 0;
  bool packed = false;
};

/// The arguments of forward or backward with strides, sequences and groups resolved.
template <AnyProblem P, class Arguments>
class CallView {
 public:
  using T = typename P::element;
  static constexpr bool causal = P::mask == Mask::causal;

  explicit CallView(const Arguments& arguments) : args_(arguments), shape_(arguments.shape) {}

  std::int64_t group() const { return shape_.heads_kv == 0 ? 1 : shape_.heads_q / shape_.heads_kv; }
  bool scaled() const { return P::scale != Scale::none && args_.scale_logit.given(); }
  bool scaled_by_key() const { return P::scale == Scale::by_key && scaled(); }
  bool scaled_by_query() const { return P::scale == Scale::by_query && scaled(); }

  /// Whether the rows of neighbouring heads are adjacent in memory.
  bool interleaved() const {
    return group() == 1 && (args_.k.strides.head == contiguous || args_.k.strides.head == shape_.dim_qk);
  }

  Sequence sequence(std::int64_t b) const {
    if (!args_.cu_seqlens_q.given()) return {b, 0, 0, shape_.seq_q, shape_.seq_k, false};
    const Offsets &q = args_.cu_seqlens_q, &k = args_.cu_seqlens_k;
    return {b, q[b], k[b], q[b + 1] - q[b], k[b + 1] - k[b], true};
  }

  std::int64_t unmasked_keys(const Sequence& s) const { return count_unmasked(key_mask(s), 0, s.length_k); }
  std::int64_t initial_count(const Sequence& s) const {
    return args_.initial_state.count == nullptr ? 0 : args_.initial_state.count[s.batch];
  }

  /// Sets the rows of tokens behind the last packed sequence to 0: they belong to no sequence.
  template <class E>
  void clear_trailing(const Tensor<E>& tensor, Side side, std::int64_t dim) const {
    if (!args_.cu_seqlens_q.given() || tensor.data == nullptr) return;
    const bool query = side == Side::query;
    const std::int64_t seq = query ? shape_.seq_q : shape_.seq_k;
    const std::int64_t heads = query ? shape_.heads_q : shape_.heads_kv;
    const Strides strides = resolve(tensor.strides, seq, heads, dim);
    for (std::int64_t t = (query ? args_.cu_seqlens_q : args_.cu_seqlens_k)[shape_.batch]; t < seq; ++t)
      for (std::int64_t h = 0; h < heads; ++h)
        std::fill_n(tensor.data + t * strides.seq + h * strides.head, dim, E(0.f));
  }

  /// The parameters of a walk whose b and c are on `bc_side` and whose a is on the other side, without the
  /// operands.
  WalkParams<T> walk(const Sequence& s, std::int64_t kv_head, Side bc_side) const {
    WalkParams<T> w;
    w.bc_rows = bc_side == Side::key ? s.length_k : s.length_q;
    w.a_rows = bc_side == Side::key ? s.length_q : s.length_k;
    (bc_side == Side::key ? w.a_heads : w.bc_heads) = group();
    if (causal) {
      w.counter = Counter(key_mask(s), s.length_k, initial_count(s), direction(bc_side));
    } else {
      w.counter = Counter(initial_count(s) + (scaled() ? unmasked_keys(s) : 0));
    }
    if (scaled()) w.exponent = sigmoid(static_cast<double>(args_.scale_logit[kv_head]));
    return w;
  }

  /// The rows of one tensor for a walk: those of all query heads of the group on the query side, of kv_head
  /// on the key side.
  template <class E>
  OperandView<E> rows(const Tensor<E>& tensor, Side side, std::int64_t dim, const Sequence& s,
                      std::int64_t kv_head, Side bc_side, Norm norm, bool weighted) const {
    OperandView<E> operand;
    operand.norm = norm;
    operand.weighted = weighted;
    operand.rows.dim = dim;
    const bool query = side == Side::query;
    const std::int64_t length = query ? s.length_q : s.length_k;
    if (tensor.data == nullptr || length == 0) return operand;
    const std::int64_t heads = query ? shape_.heads_q : shape_.heads_kv;
    const Strides strides = resolve(tensor.strides, query ? shape_.seq_q : shape_.seq_k, heads, dim);
    const std::int64_t start = query ? s.start_q : s.start_k;
    operand.head_stride = strides.head;
    operand.rows.stride = strides.seq;
    operand.rows.data = tensor.data + (query ? kv_head * group() : kv_head) * strides.head +
                        start * strides.seq + (s.packed ? 0 : s.batch * strides.batch);
    operand.rows.mask = query ? query_mask(s) : key_mask(s);
    operand.rows.mask_stride = 1;
    if (direction(bc_side) == Direction::reverse) {
      operand.rows.data += (length - 1) * operand.rows.stride;
      operand.rows.stride = -operand.rows.stride;
      if (operand.rows.mask != nullptr) operand.rows.mask += length - 1;
      operand.rows.mask_stride = -1;
    }
    return operand;
  }

  /// Causal walks for dk and dv sum over later queries, so they run from the end.
  static Direction direction(Side bc_side) {
    return causal && bc_side == Side::query ? Direction::reverse : Direction::forward;
  }

 private:
  const std::uint8_t* query_mask(const Sequence& s) const {
    return args_.query_mask == nullptr ? nullptr
                                       : args_.query_mask + (s.packed ? s.start_q : s.batch * shape_.seq_q);
  }
  const std::uint8_t* key_mask(const Sequence& s) const {
    return args_.key_mask == nullptr ? nullptr
                                     : args_.key_mask + (s.packed ? s.start_k : s.batch * shape_.seq_k);
  }

  const Arguments& args_;
  const Shape& shape_;
};

}  // namespace cottention::cpu

#if defined(__clang__)
#pragma float_control(pop)
#endif
