// A problem whose sequences are split over ranks: the arguments of each rank, and the result of all.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include <cottention/sequence_parallel/communicator.hpp>

#include "support/backward_check.hpp"
#include "support/compare.hpp"
#include "support/forward_check.hpp"
#include "support/problem_generator.hpp"
#include "support/random.hpp"

namespace support {

/// Where the part of one rank ends and that of the next begins: within a sequence of a packed batch, or in
/// all sequences of one that is not.
struct Cut {
  std::int64_t sequence = 0, q = 0, k = 0;
};

/// The cuts before, between and behind the parts of `ranks` ranks.
template <cottention::Element T>
std::vector<Cut> random_cuts(const Inputs<T>& inputs, int ranks, Random& random) {
  const Case& c = inputs.description();
  const std::int64_t batch = inputs.shape().batch;
  if (batch == 0) return std::vector<Cut>(static_cast<std::size_t>(ranks) + 1);
  const std::int64_t last = c.packed() ? batch - 1 : 0;
  std::vector<Cut> cuts = {{0, 0, 0}, {last, inputs.length_q(last), inputs.length_k(last)}};
  while (std::ssize(cuts) < ranks + 1) {
    Cut cut{c.packed() ? random.below(batch) : 0};
    const std::int64_t length_q = inputs.length_q(cut.sequence), length_k = inputs.length_k(cut.sequence);
    const double at = random.uniform() < 0.2 ? static_cast<double>(random.below(2)) : random.uniform();
    cut.q = static_cast<std::int64_t>(at * static_cast<double>(length_q) + 0.5);
    cut.k = c.mask == cottention::Mask::causal
                ? cut.q
                : static_cast<std::int64_t>(at * static_cast<double>(length_k) + 0.5);
    cuts.push_back(cut);
  }
  std::sort(cuts.begin(), cuts.end(), [](const Cut& a, const Cut& b) {
    return a.sequence != b.sequence ? a.sequence < b.sequence : a.q != b.q ? a.q < b.q : a.k < b.k;
  });
  return cuts;
}

/// The sequences of a rank of a packed batch: those that it has tokens of, and empty parts of some.
struct HeldSequences {
  std::int64_t first = 0, count = 0;
};
template <cottention::Element T>
HeldSequences held_sequences(const Inputs<T>& inputs, const Cut& begin, const Cut& end) {
  if (!inputs.description().packed() || inputs.shape().batch == 0) return {0, inputs.shape().batch};
  HeldSequences held{begin.sequence, end.sequence - begin.sequence + 1};
  const std::int64_t length = inputs.length_q(begin.sequence) + inputs.length_k(begin.sequence);
  // The next rank holds a sequence that starts there; the rank before one that ended there.
  const bool is_last = end.sequence == inputs.shape().batch - 1 && end.q == inputs.length_q(end.sequence) &&
                       end.k == inputs.length_k(end.sequence);
  if (end.q + end.k == 0 && !is_last) --held.count;
  if (held.count > 0 && length > 0 && begin.q + begin.k == length && begin.sequence < end.sequence)
    ++held.first, --held.count;
  return held;
}

/// What a rank's arguments point to besides the tensors of all ranks.
template <cottention::Element T>
struct RankMemory {
  using A = cottention::Accumulate<T>;
  std::vector<std::int64_t> offsets_q, offsets_k;
  std::vector<std::int32_t> narrow_q, narrow_k;
  std::vector<std::uint8_t> query_mask, key_mask;
  std::vector<A> initial_h, dfinal_state;
  std::vector<std::int64_t> initial_count;
  std::optional<Buffer<A>> h, incoming_h, dscale_logit, dinitial_state;
  std::optional<Buffer<std::int64_t>> count;
};

/// Ranks write their rows to tensors of the whole batch, and states to memory of their own. What belongs to
/// ranks that `ran` does not name is 0 in results.
template <cottention::Element T>
class SplitProblem {
 public:
  using A = cottention::Accumulate<T>;

  SplitProblem(Inputs<T>& inputs, std::vector<Cut> cuts, Layout layout = Layout::bshd)
      : inputs_(inputs), cuts_(std::move(cuts)), memory_(cuts_.size() - 1) {
    const Extents& s = inputs.shape();
    const std::int64_t batch = inputs.description().packed() ? 1 : s.batch;
    o_ = std::make_unique<TensorBuffer<T>>(layout, batch, s.seq_q, s.heads_q, s.dim_v);
    dq_ = std::make_unique<TensorBuffer<T>>(layout, batch, s.seq_q, s.heads_q, s.dim_qk);
    dk_ = std::make_unique<TensorBuffer<T>>(layout, batch, s.seq_k, s.heads_kv, s.dim_qk);
    dv_ = std::make_unique<TensorBuffer<T>>(layout, batch, s.seq_k, s.heads_kv, s.dim_v);
    for (int r = 0; r < ranks(); ++r) make_memory(r);
  }

  int ranks() const { return static_cast<int>(memory_.size()); }
  HeldSequences held(int rank) const { return held_sequences(inputs_, begin(rank), end(rank)); }

  cottention::SequencePart<T> part(int rank, bool keeps_h) {
    return {.first_sequence = inputs_.description().packed() ? held(rank).first : 0,
            .incoming_h = keeps_h ? memory_[index(rank)].incoming_h->data() : nullptr};
  }
  cottention::ForwardArguments<T> forward(int rank) {
    auto args = arguments(inputs_.forward(), rank);
    args.o = rows(o_->view(), rank, true, inputs_.shape().heads_q, inputs_.shape().dim_v);
    args.final_state = {memory_[index(rank)].h->data(), memory_[index(rank)].count->data()};
    return args;
  }
  cottention::BackwardArguments<T> backward(int rank) {
    const Extents& s = inputs_.shape();
    RankMemory<T>& m = memory_[index(rank)];
    auto args = arguments(inputs_.backward(), rank);
    args.dout = rows(args.dout, rank, true, s.heads_q, s.dim_v);
    args.dq = rows(dq_->view(), rank, true, s.heads_q, s.dim_qk);
    args.dk = rows(dk_->view(), rank, false, s.heads_kv, s.dim_qk);
    args.dv = rows(dv_->view(), rank, false, s.heads_kv, s.dim_v);
    args.dscale_logit = m.dscale_logit->data();
    args.dfinal_state = m.dfinal_state.data();
    args.dinitial_state = m.dinitial_state->data();
    return args;
  }

  Inputs<T>& inputs() const { return inputs_; }
  cottention::Tensor<T> whole_o() { return o_->view(); }
  cottention::Tensor<T> whole_dq() { return dq_->view(); }
  cottention::Tensor<T> whole_dk() { return dk_->view(); }
  cottention::Tensor<T> whole_dv() { return dv_->view(); }
  Buffer<A>& incoming_h(int rank) { return *memory_[index(rank)].incoming_h; }

  /// What the ranks have made of the whole batch. With `ran`, what that rank alone has made, and 0 for the
  /// rest.
  Output output(int ran = every_rank) const {
    Output out{.o = o_->values(), .h = {}, .count = {}};
    states(
        out.h, true, ran, [](const RankMemory<T>& m) -> const auto& { return *m.h; });
    for (std::int64_t b = 0; b < inputs_.shape().batch; ++b) {
      const int rank = holder(b, true);
      out.count.push_back(counts(rank, ran) ? memory_[index(rank)].count->data()[b - held(rank).first] : 0);
    }
    if (ran != every_rank) clean(out.o);
    return out;
  }
  Gradient gradient(int rank_of_dscale_logit, int ran = every_rank) const {
    Gradient out{.dq = dq_->values(),
                 .dk = dk_->values(),
                 .dv = dv_->values(),
                 .dscale_logit = values_of(*memory_[index(rank_of_dscale_logit)].dscale_logit),
                 .dinitial_state = {}};
    states(
        out.dinitial_state, false, ran,
        [](const RankMemory<T>& m) -> const auto& { return *m.dinitial_state; });
    if (ran != every_rank)
      for (auto* x : {&out.dq, &out.dk, &out.dv, &out.dscale_logit}) clean(*x);
    return out;
  }
  bool surroundings_untouched() const {
    bool untouched = o_->surroundings_untouched() && dq_->surroundings_untouched() &&
                     dk_->surroundings_untouched() && dv_->surroundings_untouched();
    for (const RankMemory<T>& m : memory_)
      untouched = untouched && m.h->guards_untouched() && m.count->guards_untouched() &&
                  m.incoming_h->guards_untouched() && m.dscale_logit->guards_untouched() &&
                  m.dinitial_state->guards_untouched();
    return untouched;
  }
  /// The lowest or the highest rank that holds a sequence.
  int holder(std::int64_t sequence, bool last) const {
    if (!inputs_.description().packed()) return last ? ranks() - 1 : 0;
    int found = 0;
    for (int i = 0; i < ranks(); ++i) {
      const int rank = last ? i : ranks() - 1 - i;
      const HeldSequences h = held(rank);
      if (h.first <= sequence && sequence < h.first + h.count) found = rank;
    }
    return found;
  }

 private:
  static std::size_t index(int rank) { return static_cast<std::size_t>(rank); }
  /// What nobody has written is NaN.
  static void clean(std::vector<double>& x) {
    for (double& value : x)
      if (value != value) value = 0;
  }
  const Cut& begin(int rank) const { return cuts_[index(rank)]; }
  const Cut& end(int rank) const { return cuts_[index(rank) + 1]; }
  std::int64_t state_elements() const {
    const Extents& s = inputs_.shape();
    return s.heads_kv * s.dim_qk * s.dim_v;
  }

  static constexpr int every_rank = -1;
  static bool counts(int rank, int ran) { return ran == every_rank || ran == rank; }

  template <class Of>
  void states(std::vector<double>& to, bool last, int ran, Of of) const {
    for (std::int64_t b = 0; b < inputs_.shape().batch; ++b) {
      const int rank = holder(b, last);
      const A* state = of(memory_[index(rank)]).data() + (b - held(rank).first) * state_elements();
      to.insert(to.end(), state, state + state_elements());
      if (!counts(rank, ran)) std::fill(to.end() - state_elements(), to.end(), 0);
    }
  }

  /// First position of a rank on an axis, and how many it has: all behind the last sequence for the last one.
  std::int64_t position(const Cut& cut, bool queries) const {
    const std::int64_t start = !inputs_.description().packed() || inputs_.shape().batch == 0 ? 0
                               : queries ? inputs_.start_q(cut.sequence)
                                         : inputs_.start_k(cut.sequence);
    return start + (queries ? cut.q : cut.k);
  }
  std::int64_t positions(int rank, bool queries) const {
    const std::int64_t axis = queries ? inputs_.shape().seq_q : inputs_.shape().seq_k;
    return (rank + 1 == ranks() ? axis : position(end(rank), queries)) - position(begin(rank), queries);
  }

  template <class E>
  cottention::Tensor<E> rows(cottention::Tensor<E> x, int rank, bool queries, std::int64_t heads,
                             std::int64_t dim) const {
    x.strides =
        cottention::resolve(x.strides, queries ? inputs_.shape().seq_q : inputs_.shape().seq_k, heads, dim);
    x.data += position(begin(rank), queries) * x.strides.seq;
    return x;
  }

  template <class Arguments>
  Arguments arguments(Arguments args, int rank) {
    const Extents& s = inputs_.shape();
    RankMemory<T>& m = memory_[index(rank)];
    args.q = rows(args.q, rank, true, s.heads_q, s.dim_qk);
    args.k = rows(args.k, rank, false, s.heads_kv, s.dim_qk);
    args.v = rows(args.v, rank, false, s.heads_kv, s.dim_v);
    args.shape.batch = held(rank).count;
    args.shape.seq_q = positions(rank, true);
    args.shape.seq_k = positions(rank, false);
    if (args.query_mask != nullptr) args.query_mask = m.query_mask.data();
    if (args.key_mask != nullptr) args.key_mask = m.key_mask.data();
    if (args.cu_seqlens_q.given()) {
      const bool narrow = args.cu_seqlens_q.int32() != nullptr;
      args.cu_seqlens_q = narrow ? cottention::Offsets(m.narrow_q.data()) : m.offsets_q.data();
      args.cu_seqlens_k = narrow ? cottention::Offsets(m.narrow_k.data()) : m.offsets_k.data();
    }
    if (args.initial_state.h != nullptr) args.initial_state = {m.initial_h.data(), m.initial_count.data()};
    return args;
  }

  void make_memory(int rank) {
    RankMemory<T>& m = memory_[index(rank)];
    const HeldSequences own = held(rank);
    const auto slots = static_cast<std::int64_t>(2) + own.count;  // enough for any batch
    m.h.emplace(own.count * state_elements());
    m.count.emplace(own.count);
    m.incoming_h.emplace((inputs_.description().packed() ? std::int64_t{2} : slots - 2) * state_elements());
    m.dscale_logit.emplace(inputs_.shape().heads_kv);
    m.dinitial_state.emplace(own.count * state_elements());
    // States that a rank must not read are NaN.
    const auto nan = std::numeric_limits<A>::quiet_NaN();
    m.initial_h.assign(static_cast<std::size_t>(own.count * state_elements()), nan);
    m.dfinal_state = m.initial_h;
    m.initial_count.assign(static_cast<std::size_t>(own.count), 1000);
    for (std::int64_t b = 0; b < own.count; ++b) {
      const std::int64_t from = (own.first + b) * state_elements(), to = b * state_elements();
      if (holder(own.first + b, false) == rank) {
        std::copy_n(inputs_.initial_state().data() + from, state_elements(), m.initial_h.data() + to);
        m.initial_count[static_cast<std::size_t>(b)] = inputs_.initial_count().data()[own.first + b];
      }
      if (holder(own.first + b, true) == rank)
        std::copy_n(inputs_.dfinal_state().data() + from, state_elements(), m.dfinal_state.data() + to);
    }
    make_offsets(rank, own, true, m.offsets_q, m.narrow_q);
    make_offsets(rank, own, false, m.offsets_k, m.narrow_k);
    const auto args = inputs_.forward();
    if (args.query_mask != nullptr) make_mask(args.query_mask, rank, true, m.query_mask);
    if (args.key_mask != nullptr) make_mask(args.key_mask, rank, false, m.key_mask);
  }
  void make_offsets(int rank, HeldSequences own, bool queries, std::vector<std::int64_t>& wide,
                    std::vector<std::int32_t>& narrow) const {
    if (!inputs_.description().packed()) return;
    const std::int64_t first = position(begin(rank), queries), last = position(end(rank), queries);
    wide.push_back(0);
    for (std::int64_t b = own.first; b < own.first + own.count; ++b) {
      const std::int64_t behind =
          queries ? inputs_.start_q(b) + inputs_.length_q(b) : inputs_.start_k(b) + inputs_.length_k(b);
      wide.push_back(std::min(behind, last) - first);
    }
    for (const std::int64_t x : wide) narrow.push_back(static_cast<std::int32_t>(x));
  }
  void make_mask(const std::uint8_t* whole, int rank, bool queries, std::vector<std::uint8_t>& mask) const {
    const std::int64_t batch = inputs_.description().packed() ? 1 : inputs_.shape().batch;
    const std::int64_t axis = queries ? inputs_.shape().seq_q : inputs_.shape().seq_k;
    for (std::int64_t b = 0; b < batch; ++b) {
      const std::uint8_t* from = whole + b * axis + position(begin(rank), queries);
      mask.insert(mask.end(), from, from + positions(rank, queries));
    }
  }

  Inputs<T>& inputs_;
  std::vector<Cut> cuts_;
  std::vector<RankMemory<T>> memory_;
  std::unique_ptr<TensorBuffer<T>> o_, dq_, dk_, dv_;
};

}  // namespace support
