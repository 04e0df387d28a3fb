// The sequences of a part: those that other ranks hold too, which exchange states, and the rest.
#pragma once

#include <cottention/host_only.hpp>

#include <cstddef>
#include <cstdint>

#include <cottention/arguments.hpp>
#include <cottention/sequence_parallel/layout.hpp>
#include <cottention/workspace_layout.hpp>

namespace cottention::sequence_parallel {

/// Some of a part's sequences, next to each other.
struct SequenceRange {
  std::int64_t first = 0, count = 0;
};

/// Sequences that the same ranks hold: all of a batch that is not packed, or one of a packed batch.
struct SharedSequences {
  SequenceRange range;
  Holders holders;
  int slot = 0;  ///< of their states among those that the rank sends
  bool begins_before = false, goes_on_behind = false;

  bool begins_here() const { return !begins_before; }
  bool ends_here() const { return !goes_on_behind; }
};

/// How a part is computed: `own` by one call, and each of `shared` with what other ranks know of it.
struct PartPlan {
  SequenceRange own;
  SharedSequences shared[2];
  int shared_count = 0;

  const SharedSequences* begin() const { return shared; }
  const SharedSequences* end() const { return shared + shared_count; }
};

/// A causal part sends one state each way, so all are in slot 0.
template <Mask mask>
PartPlan plan_of(const PartLayout& layout) {
  PartPlan plan{.own = {0, layout.batch}, .shared = {}};
  const auto share = [&](SequenceRange range, Holders holders, int slot) {
    if (mask == Mask::causal) slot = holders.first_slot = 0;
    plan.shared[plan.shared_count++] = {range, holders, slot, holders.first < layout.rank,
                                        layout.rank < holders.last};
  };
  if (layout.batch == 0) return plan;
  if (!layout.packed) {
    if (!layout.front.several()) return plan;
    share({0, layout.batch}, layout.front, 0);
    plan.own.count = 0;
    return plan;
  }
  if (layout.front.several()) {
    share({0, 1}, layout.front, 0);
    plan.own = {1, layout.batch - 1};
  }
  if (layout.batch > 1 && layout.back.several()) {
    share({layout.batch - 1, 1}, layout.back, 1);
    --plan.own.count;
  }
  return plan;
}

/// The arguments of a call on some of a part's sequences. Tensors and masks stay as they are, so of a packed
/// batch the first offset need not be 0.
template <class Arguments>
Arguments slice(Arguments args, SequenceRange range) {
  const Shape& s = args.shape;
  const std::int64_t state = range.first * s.heads_kv * s.dim_qk * s.dim_v;
  const auto advance = [](auto*& pointer, std::int64_t elements) {
    if (pointer != nullptr) pointer += elements;
  };
  const auto advance_offsets = [&](Offsets& x) {
    if (x.int32() != nullptr) x = x.int32() + range.first;
    if (x.int64() != nullptr) x = x.int64() + range.first;
  };
  advance_offsets(args.cu_seqlens_q);
  advance_offsets(args.cu_seqlens_k);
  advance(args.initial_state.h, state);
  advance(args.initial_state.count, range.first);
  if constexpr (requires { args.dout; }) {
    advance(args.final_h, state);
    advance(args.dfinal_state, state);
    advance(args.dinitial_state, state);
  } else {
    advance(args.final_state.h, state);
    advance(args.final_state.count, range.first);
  }
  args.shape.batch = range.count;
  return args;
}

/// Leaves a call no keys. `none` are 0s, one more than there are sequences, for a packed batch.
template <class Arguments>
void drop_keys(Arguments& args, const std::int64_t* none) {
  args.shape.seq_k = 0;
  args.key_mask = nullptr;
  if (args.cu_seqlens_k.given()) args.cu_seqlens_k = none;
}
template <class Arguments>
void drop_queries(Arguments& args, const std::int64_t* none) {
  args.shape.seq_q = 0;
  args.query_mask = nullptr;
  if (args.cu_seqlens_q.given()) args.cu_seqlens_q = none;
}

/// A forward call on the keys and values of `args` that makes the final state alone.
template <class Arguments>
auto keys_alone(const Arguments& args) {
  using T = std::remove_const_t<std::remove_pointer_t<decltype(args.k.data)>>;
  ForwardArguments<T> keys;
  keys.shape = args.shape;
  keys.shape.heads_q = 0;
  keys.k = args.k;
  keys.v = args.v;
  keys.scale_logit = args.scale_logit;
  keys.key_mask = args.key_mask;
  keys.cu_seqlens_q = args.cu_seqlens_q;
  keys.cu_seqlens_k = args.cu_seqlens_k;
  keys.plan = args.plan;
  return keys;
}

/// Arrays of one length at the same distance from each other.
template <class A>
struct ArrayRun {
  const A* first = nullptr;
  std::int64_t count = 0, stride = 0;
};
/// What a sum is of, in this order.
template <class A>
struct SumTerms {
  static constexpr int max_runs = 4;
  ArrayRun<A> runs[max_runs];
  int count = 0;

  void add(ArrayRun<A> run) {
    if (run.count > 0 && run.first != nullptr) runs[count++] = run;
  }
};

/// What all ranks have sent: of each rank `slot_count` arrays of `elements`.
template <class A>
struct GatheredArrays {
  A* data = nullptr;
  std::int64_t elements = 0, rank_stride = 0;

  /// Adds to `terms` what ranks from `first` to last - 1 have sent of a sequence, in the order of ranks.
  void add_to(SumTerms<A>& terms, const Holders& holders, int first, int last) const {
    const auto at = [&](int rank) { return data + rank * rank_stride + holders.slot(rank) * elements; };
    if (first == holders.first && first < last) {
      terms.add({at(first), 1, 0});
      ++first;
    }
    if (first < last) terms.add({at(first), last - first, rank_stride});
  }
};

/// The sizes that the memory of a call follows from.
struct PartSizes {
  std::int64_t ranks = 1;
  std::int64_t heads_kv = 0;
  int slot_count = 1;               ///< states that a rank sends each way, in units of those below
  std::int64_t slot_sequences = 1;  ///< sequences of a slot
  std::int64_t slot_elements = 0;   ///< of their states
  int ways = 1;                     ///< 2 where D goes round beside H

  std::int64_t sent_elements() const { return ways * slot_count * slot_elements; }
};

template <AnyProblem P, class Arguments>
PartSizes sizes_of(const Arguments& args, int ranks) {
  const Shape& s = args.shape;
  const bool packed = args.cu_seqlens_q.given();
  const std::int64_t sequences = packed ? 1 : s.batch;
  constexpr bool backward = requires { args.dout; };
  return {.ranks = ranks,
          .heads_kv = s.heads_kv,
          .slot_count = packed && P::mask == Mask::bidirectional ? 2 : 1,
          .slot_sequences = sequences,
          .slot_elements = sequences * s.heads_kv * s.dim_qk * s.dim_v,
          .ways = backward ? 2 : 1};
}

/// The memory of a call beside the scratch of the calls that it is made of, which is `rest`.
template <class A>
struct PartMemory {
  std::int64_t* none = nullptr;         ///< (2), 0s: the offsets of a sequence without tokens
  std::int64_t* sent_counts = nullptr;  ///< (slot_count, slot_sequences)
  std::int64_t* all_counts = nullptr;   ///< the same of each rank
  std::int64_t* counts[2] =
      {};  ///< of each slot (slot_sequences): tokens on ranks before; bidirectional: on all
  std::int64_t* other_counts[2] = {};  ///< bidirectional: tokens on all ranks but this one
  A* sent = nullptr;                   ///< (ways, slot_count, slot_elements)
  A* all = nullptr;                    ///< the same of each rank
  A* h[2] = {};                        ///< of each slot (slot_elements): H of ranks before, or of all
  A* d[2] = {};                        ///< D of ranks behind, or of all
  A* sent_dscale_logit = nullptr;      ///< (dscale_logit_parts, heads_kv), of each call
  A* all_dscale_logit = nullptr;       ///< the same of each rank

  static PartMemory take(cottention::detail::Carver& carver, const PartSizes& x) {
    PartMemory m;
    m.none = carver.take<std::int64_t>(2);
    m.sent_counts = carver.take<std::int64_t>(std::int64_t{x.slot_count}, x.slot_sequences);
    m.all_counts = carver.take<std::int64_t>(x.ranks, std::int64_t{x.slot_count}, x.slot_sequences);
    m.sent = carver.take<A>(std::int64_t{x.ways}, std::int64_t{x.slot_count}, x.slot_elements);
    m.all = carver.take<A>(x.ranks, std::int64_t{x.ways}, std::int64_t{x.slot_count}, x.slot_elements);
    for (int i = 0; i < x.slot_count; ++i) {
      m.counts[i] = carver.take<std::int64_t>(x.slot_sequences);
      m.other_counts[i] = carver.take<std::int64_t>(x.slot_sequences);
      m.h[i] = carver.take<A>(x.slot_elements);
      m.d[i] = carver.take<A>(x.ways == 2 ? x.slot_elements : 0);
    }
    const std::int64_t heads = x.ways == 2 ? x.heads_kv : 0;
    m.sent_dscale_logit = carver.take<A>(dscale_logit_parts, heads);
    m.all_dscale_logit = carver.take<A>(x.ranks, dscale_logit_parts, heads);
    return m;
  }

  static constexpr std::int64_t dscale_logit_parts = 3;
};

}  // namespace cottention::sequence_parallel
