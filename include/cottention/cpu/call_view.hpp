// From the arguments of a call to its walk tasks, by the table of recurrence.hpp.
#pragma once

#include <cottention/arguments.hpp>
#include <cottention/cpu/execution.hpp>
#include <cottention/cpu/walk_params.hpp>
#include <cottention/pool.hpp>
#include <cottention/recurrence.hpp>

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::cpu {

using recurrence::Input, recurrence::Output, recurrence::Side, recurrence::StateLayout;

/// Where the states of a walk go on the way: that after each `interval` rows.
template <class A>
struct Checkpoints {
  std::int64_t interval = 0;           // 0: there are none
  const std::int32_t* slot = nullptr;  // (count), negative: not wanted
  std::int64_t count = 0;
  A* states = nullptr;         // the head's in slot 0
  std::int64_t slot_size = 0;  // elements from one slot to the next

  /// Whether sums begin anew after `rows` rows.
  bool are_at(std::int64_t rows) const { return interval > 0 && rows > 0 && rows % interval == 0; }
  /// Where the state after `rows` rows goes, (dim_a, dim_c); null: nowhere.
  A* after(std::int64_t rows) const {
    if (states == nullptr || !are_at(rows) || rows / interval > count) return nullptr;
    const std::int64_t to = slot[rows / interval - 1];
    return to < 0 ? nullptr : states + to * slot_size;
  }
};

/// A walk with its initial and final states.
template <Element T>
struct WalkTask {
  WalkParams<T> walk;
  const Accumulate<T>* initial = nullptr;           // null: zero
  StateLayout initial_layout = StateLayout::as_is;  // transposed: (dim_c, dim_a) in the caller's memory
  Accumulate<T>* final = nullptr;                   // (dim_a, dim_c), null: not wanted
  Checkpoints<Accumulate<T>> checkpoints{};

  /// Whether anyone reads the state after the last row.
  bool wants_last_state() const { return final != nullptr || checkpoints.after(walk.bc_rows) != nullptr; }
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
  /// Whether the rows of neighbouring heads are adjacent in memory.
  bool heads_adjacent() const {
    return group() == 1 && (args_.k.strides.head == contiguous || args_.k.strides.head == shape_.dim_qk);
  }

  Sequence sequence(std::int64_t b) const {
    if (!args_.cu_seqlens_q.given()) return {b, 0, 0, shape_.seq_q, shape_.seq_k, false};
    const Offsets &q = args_.cu_seqlens_q, &k = args_.cu_seqlens_k;
    return {b, q[b], k[b], q[b + 1] - q[b], k[b + 1] - k[b], true};
  }

  std::int64_t unmasked_keys(const Sequence& s) const { return count_unmasked(key_mask(s), 0, s.length_k); }
  /// Where a sequence has its initial and its final state in the arrays of them; negative: nowhere.
  std::int64_t read_slot(const Sequence& s) const {
    if constexpr (!backward) return cottention::detail::slot_of(args_.read_slot, s.batch);
    return s.batch;
  }
  std::int64_t write_slot(const Sequence& s) const {
    if constexpr (!backward) return cottention::detail::slot_of(args_.write_slot, s.batch);
    return s.batch;
  }
  /// The slots of a sequence's checkpoints, and how many there may be.
  const std::int32_t* checkpoint_slots(const Sequence& s) const {
    if constexpr (!backward)
      if (args_.checkpoint_slot != nullptr) return args_.checkpoint_slot + s.batch * args_.max_checkpoints;
    return nullptr;
  }
  std::int64_t checkpoints(const Sequence& s) const {
    if constexpr (!backward)
      if (args_.checkpoint_slot != nullptr)
        return (std::min)(args_.max_checkpoints, s.length_k / args_.checkpoint_interval);
    return 0;
  }
  std::int64_t initial_count(const Sequence& s) const {
    const std::int64_t slot = read_slot(s);
    return args_.initial_state.count == nullptr || slot < 0 ? 0 : args_.initial_state.count[slot];
  }

  /// Writes the counts of a sequence's final state and of those at its checkpoints.
  void store_counts(const Sequence& s) const {
    if constexpr (!backward) {
      const std::int64_t interval = args_.checkpoint_interval, kept = checkpoints(s);
      std::int64_t count = initial_count(s);
      const auto store = [&](std::int64_t slot) {
        if (slot >= 0) args_.final_state.count[slot] = count;
      };
      for (std::int64_t i = 0; i < kept; ++i) {
        count += count_unmasked(key_mask(s), i * interval, (i + 1) * interval);
        store(checkpoint_slots(s)[i]);
      }
      count += count_unmasked(key_mask(s), kept * interval, s.length_k);
      store(write_slot(s));
    }
  }

  /// Sets the rows of an output's tokens behind the last packed sequence to 0: they belong to no sequence.
  void clear_trailing(Output output, const Execution& execution) const {
    const Tensor<T> x = tensor(output);
    if (!args_.cu_seqlens_q.given() || x.data == nullptr) return;
    const Side side = recurrence::roles_of(output).rows;
    const bool queries = side == Side::queries;
    const std::int64_t first = (queries ? args_.cu_seqlens_q : args_.cu_seqlens_k)[shape_.batch];
    const std::int64_t tokens = seq(side) - first, dim = dim_of(recurrence::has_dim_qk(output));
    const Strides strides = resolve(x.strides, seq(side), heads(side), dim);
    constexpr std::int64_t bytes_per_thread = 262144;
    const std::int64_t row_bytes = heads(side) * dim * std::int64_t{sizeof(T)};
    const std::int64_t worth = row_bytes == 0 ? 1 : tokens / (bytes_per_thread / row_bytes + 1);
    const int threads = static_cast<int>(std::clamp<std::int64_t>(worth, 1, available_threads(execution)));
    auto body = [&](int thread) {
      for (std::int64_t t = first + thread; t < seq(side); t += threads)
        for (std::int64_t h = 0; h < heads(side); ++h)
          std::fill_n(x.data + t * strides.seq + h * strides.head, dim, T(0.f));
    };
    parallel(execution, threads, body);
  }

  /// The walk of one output, for one sequence and the query heads of one key/value head, with its states.
  WalkTask<T> task(Output output, const Sequence& s, std::int64_t kv_head) const {
    const Side side = recurrence::roles_of(output).rows;
    WalkTask<T> task;
    WalkParams<T>& w = task.walk;
    set_counts(w, s, kv_head, side, recurrence::direction_of(output, P::mask));
    w.outputs[0] = operands(output, s, kv_head);
    task.initial = state_at(initial_state(side), read_slot(s), kv_head);
    task.initial_layout = recurrence::state_layout(output);
    task.final = state_at(final_state(output), write_slot(s), kv_head);
    if constexpr (!backward)
      task.checkpoints = {
          args_.checkpoint_interval, checkpoint_slots(s), checkpoints(s),
          checkpoint_slots(s) == nullptr ? nullptr : state_at(final_state(output), 0, kv_head),
          shape_.heads_kv * shape_.dim_qk * shape_.dim_v};
    w.keeps_state = task.final != nullptr || task.checkpoints.interval > 0;
    return task;
  }
  /// The walk of dv and dk.
  WalkTask<T> key_gradients_task(const Sequence& s, std::int64_t kv_head) const {
    WalkTask<T> both = task(Output::dv, s, kv_head);
    both.walk.outputs[1] = operands(Output::dk, s, kv_head);
    both.walk.two_outputs = true;
    return both;
  }

  /// Where the final state of an output's walk goes, as (dim_qk, dim_v); null where it is not wanted.
  Accumulate<T>* final_state(Output output) const {
    if constexpr (backward)
      return output == Output::dv ? args_.dinitial_state : nullptr;
    else
      return args_.final_state.h;
  }
  Tensor<T> tensor(Output output) const {
    if constexpr (backward)
      return output == Output::dq ? args_.dq : output == Output::dk ? args_.dk : args_.dv;
    else
      return args_.o;
  }

 private:
  static constexpr bool backward = requires(const Arguments& args) { args.dout; };

  Tensor<const T> tensor(Input input) const {
    if constexpr (backward)
      if (input == Input::g) return args_.dout;
    return input == Input::q ? args_.q : input == Input::k ? args_.k : args_.v;
  }
  /// The head's state in an array of them; null: it has none there.
  template <class A>
  A* state_at(A* states, std::int64_t slot, std::int64_t kv_head) const {
    if (states == nullptr || slot < 0) return nullptr;
    return states + (slot * shape_.heads_kv + kv_head) * shape_.dim_qk * shape_.dim_v;
  }
  /// The state before the first term: that of the call for sums over keys, its gradient for sums over
  /// queries.
  const Accumulate<T>* initial_state([[maybe_unused]] Side rows) const {
    if constexpr (backward)
      if (rows == Side::keys) return args_.dfinal_state;
    return args_.initial_state.h;
  }
  /// The operands of one output for one sequence and the query heads of one key/value head.
  OutputOperands<T> operands(Output output, const Sequence& s, std::int64_t kv_head) const {
    const recurrence::Roles roles = recurrence::roles_of(output);
    const recurrence::Direction direction = recurrence::direction_of(output, P::mask);
    const auto operand = [&](Input input) {
      const bool normalized = recurrence::is_normalized(input);
      return rows(tensor(input), recurrence::side_of(input), dim_of(normalized), s, kv_head, direction,
                  normalized ? Norm::normalize : Norm::keep,
                  scaled() && recurrence::is_weighted(input, P::scale));
    };
    OutputOperands<T> x;
    x.a = operand(roles.a), x.b = operand(roles.b), x.c = operand(roles.c);
    if (roles.norm_backward) x.norm_input = operand(recurrence::norm_input(output));
    x.out = rows(tensor(output), roles.rows, dim_of(recurrence::has_dim_qk(output)), s, kv_head, direction,
                 Norm::keep, scaled() && P::scale == roles.weighted_by);
    return x;
  }
  std::int64_t dim_of(bool qk) const { return qk ? shape_.dim_qk : shape_.dim_v; }
  std::int64_t heads(Side side) const { return side == Side::queries ? shape_.heads_q : shape_.heads_kv; }
  std::int64_t seq(Side side) const { return side == Side::queries ? shape_.seq_q : shape_.seq_k; }

  /// Lengths, heads, counts and weights of a walk whose rows are on this side.
  void set_counts(WalkParams<T>& w, const Sequence& s, std::int64_t kv_head, Side rows,
                  recurrence::Direction direction) const {
    const bool queries = rows == Side::queries;
    w.a_rows = queries ? s.length_q : s.length_k;
    w.bc_rows = queries ? s.length_k : s.length_q;
    (queries ? w.a_heads : w.bc_heads) = group();
    if (causal) {
      w.counter = Counter(key_mask(s), s.length_k, initial_count(s), direction);
    } else {
      w.counter = Counter(initial_count(s) + (scaled() ? unmasked_keys(s) : 0));
    }
    if (scaled()) w.exponent = sigmoid(static_cast<double>(args_.scale_logit[kv_head]));
  }

  /// The rows of one tensor for a walk: those of all query heads of the group on the query side, of kv_head
  /// on the key side.
  template <class E>
  OperandView<E> rows(const Tensor<E>& tensor, Side side, std::int64_t dim, const Sequence& s,
                      std::int64_t kv_head, recurrence::Direction direction, Norm norm, bool weighted) const {
    OperandView<E> operand;
    operand.norm = norm;
    operand.weighted = weighted;
    operand.rows.dim = dim;
    const bool queries = side == Side::queries;
    const std::int64_t length = queries ? s.length_q : s.length_k;
    if (tensor.data == nullptr || length == 0) return operand;
    const Strides strides = resolve(tensor.strides, seq(side), heads(side), dim);
    const std::int64_t start = queries ? s.start_q : s.start_k;
    operand.head_stride = strides.head;
    operand.rows.stride = strides.seq;
    operand.rows.data = tensor.data + (queries ? kv_head * group() : kv_head) * strides.head +
                        start * strides.seq + (s.packed ? 0 : s.batch * strides.batch);
    operand.rows.mask = queries ? query_mask(s) : key_mask(s);
    operand.rows.mask_stride = 1;
    if (direction == recurrence::Direction::reverse) {
      operand.rows.data += (length - 1) * operand.rows.stride;
      operand.rows.stride = -operand.rows.stride;
      if (operand.rows.mask != nullptr) operand.rows.mask += length - 1;
      operand.rows.mask_stride = -1;
    }
    return operand;
  }

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
