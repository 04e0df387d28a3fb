// What a part's calls exchange with other ranks: counts, then states.
#pragma once

#include <cottention/host_only.hpp>

#include <cstddef>
#include <cstdint>

#include <cottention/sequence_parallel/parts.hpp>

namespace cottention::sequence_parallel {

/// One call on a part. `Calls` are those of a backend:
///
///     forward(arguments), backward(arguments)   calls on slices, of valid arguments
///     count(arguments, to)                      initial counts, where given, plus unmasked keys
///     sum(to, terms, elements)                  in double, or of integers, in the order of the terms
///     set_zero(data, bytes)
template <AnyProblem P, class Calls, Communicator C>
class PartExchange {
 public:
  using T = typename P::element;
  using A = Accumulate<T>;
  static constexpr bool causal = P::mask == Mask::causal;

  PartExchange(const PartLayout& layout, const PartSizes& sizes, const PartMemory<A>& memory, Calls& calls,
               C& communicator)
      : layout_(layout),
        plan_(plan_of<P::mask>(layout)),
        sizes_(sizes),
        memory_(memory),
        calls_(calls),
        communicator_(communicator) {}

  const PartPlan& plan() const { return plan_; }
  const PartLayout& layout() const { return layout_; }
  const PartMemory<A>& memory() const { return memory_; }
  Calls& calls() const { return calls_; }

  // ---- Counts: weights need those of the tokens on other ranks before anything else.

  template <class Arguments>
  CallStatus counts(const Arguments& args) {
    if (!layout_.any_shared) return {};
    const std::int64_t elements = sizes_.slot_sequences, sent = sizes_.slot_count * elements;
    CallStatus status = set_zero(memory_.none, 2);
    if (status) status = set_zero(memory_.sent_counts, sent);
    for (const SharedSequences& s : plan_) {
      if (!status) break;
      if (causal && !s.goes_on_behind) continue;
      Arguments part = slice(args, s.range);
      if (!s.begins_here()) part.initial_state = {};
      status = calls_.count(part, memory_.sent_counts + s.slot * elements);
    }
    if (!status) return status;
    if (status = gather(memory_.sent_counts, memory_.all_counts, sent); !status) return status;
    const GatheredArrays<std::int64_t> all{memory_.all_counts, elements, sent};
    for (const SharedSequences& s : plan_) {
      if (causal && !s.begins_before) continue;
      SumTerms<std::int64_t> terms, others;
      all.add_to(terms, s.holders, s.holders.first, causal ? layout_.rank : s.holders.last + 1);
      if (status = calls_.sum(memory_.counts[s.slot], terms, elements); !status) return status;
      if (causal) continue;
      all.add_to(others, s.holders, s.holders.first, layout_.rank);
      all.add_to(others, s.holders, layout_.rank + 1, s.holders.last + 1);
      if (s.begins_here() && args.initial_state.count != nullptr)
        others.add({args.initial_state.count + s.range.first, 1, 0});
      if (status = calls_.sum(memory_.other_counts[s.slot], others, elements); !status) return status;
    }
    return {};
  }

  // ---- States

  /// What this part's own sum of k v^T starts from, and the counts of the tokens before it.
  ConstState<A> part_start(const SharedSequences& s, const ConstState<A>& given) const {
    if (causal && s.begins_here()) return given;
    return {s.begins_here() ? given.h : nullptr,
            causal ? memory_.counts[s.slot] : memory_.other_counts[s.slot]};
  }
  /// Whether other ranks need this part's sum of k v^T, or of q g^T.
  bool sends_h(const SharedSequences& s) const { return !causal || s.goes_on_behind; }
  bool sends_d(const SharedSequences& s) const { return !causal || s.begins_before; }
  /// Whether this part needs theirs.
  bool needs_h(const SharedSequences& s) const { return !causal || s.begins_before; }
  bool needs_d(const SharedSequences& s) const { return !causal || s.goes_on_behind; }

  A* sent_h(const SharedSequences& s) const { return memory_.sent + s.slot * sizes_.slot_elements; }
  A* sent_d(const SharedSequences& s) const {
    return memory_.sent + (sizes_.slot_count + s.slot) * sizes_.slot_elements;
  }
  /// Where H of other ranks is kept: in the caller's memory where that is given.
  A* incoming_h(const SharedSequences& s, A* given) const {
    return given != nullptr ? given + s.slot * sizes_.slot_elements : memory_.h[s.slot];
  }

  /// Makes the part's sum of k v^T, to be sent.
  template <class Arguments>
  CallStatus make_h(const Arguments& args, const SharedSequences& s) {
    const Arguments part = slice(args, s.range);
    ForwardArguments<T> keys = keys_alone(part);
    keys.initial_state = part_start(s, part.initial_state);
    keys.final_state.h = sent_h(s);
    return calls_.forward(keys);
  }
  /// Makes the part's sum of q g^T, to be sent.
  CallStatus make_d(const BackwardArguments<T>& args, const SharedSequences& s) {
    BackwardArguments<T> part = slice(args, s.range);
    part.dq = part.dk = part.dv = {};
    part.dscale_logit = nullptr;
    part.final_h = nullptr;
    part.initial_state = {nullptr, part_start(s, part.initial_state).count};
    if (!s.ends_here()) part.dfinal_state = nullptr;
    part.dinitial_state = sent_d(s);
    return calls_.backward(part);
  }

  CallStatus clear_sent() { return set_zero(memory_.sent, sizes_.sent_elements()); }
  /// Sends H, D or both.
  CallStatus start(bool h, bool d) {
    sent_ways_ = h + d;
    return start_gather(memory_.sent + (h ? 0 : sizes_.slot_count * sizes_.slot_elements), memory_.all,
                        sent_elements());
  }
  CallStatus finish() { return communicator_.finish_all_gather(); }
  /// `finish` whatever has become of the calls meanwhile: nothing may be under way in the workspace when a
  /// call returns. The first status that is not ok.
  CallStatus finish_after(const CallStatus& calls) {
    const CallStatus status = finish();
    return calls ? status : calls;
  }
  /// What was sent, once `finish` has returned: H of the ranks before, or of all.
  CallStatus sum_h(const SharedSequences& s, A* to) {
    SumTerms<A> terms;
    gathered(0).add_to(terms, s.holders, s.holders.first, causal ? layout_.rank : s.holders.last + 1);
    return calls_.sum(to, terms, sizes_.slot_elements);
  }
  /// D of the ranks behind, or of all.
  CallStatus sum_d(const SharedSequences& s) {
    SumTerms<A> terms;
    gathered(sent_ways_ - 1)
        .add_to(terms, s.holders, causal ? layout_.rank + 1 : s.holders.first, s.holders.last + 1);
    return calls_.sum(memory_.d[s.slot], terms, sizes_.slot_elements);
  }

  // ---- The gradient of m, a sum over ranks.

  A* dscale_logit_of_call(int i) const { return memory_.sent_dscale_logit + i * sizes_.heads_kv; }
  CallStatus clear_dscale_logit() { return set_zero(memory_.sent_dscale_logit, dscale_logit_elements()); }
  CallStatus sum_dscale_logit(A* to) {
    const std::int64_t sent = dscale_logit_elements();
    if (CallStatus status = gather(memory_.sent_dscale_logit, memory_.all_dscale_logit, sent); !status)
      return status;
    if (to == nullptr) return {};
    SumTerms<A> terms;
    terms.add({memory_.all_dscale_logit, sizes_.ranks * PartMemory<A>::dscale_logit_parts, sizes_.heads_kv});
    return calls_.sum(to, terms, sizes_.heads_kv);
  }

 private:
  std::int64_t sent_elements() const { return sent_ways_ * sizes_.slot_count * sizes_.slot_elements; }
  std::int64_t dscale_logit_elements() const { return PartMemory<A>::dscale_logit_parts * sizes_.heads_kv; }
  GatheredArrays<A> gathered(int way) const {
    return {memory_.all + way * sizes_.slot_count * sizes_.slot_elements, sizes_.slot_elements,
            sent_elements()};
  }

  template <class X>
  CallStatus set_zero(X* data, std::int64_t elements) {
    return elements == 0 ? CallStatus{}
                         : calls_.set_zero(data, static_cast<std::size_t>(elements) * sizeof(X));
  }
  template <class X>
  CallStatus start_gather(const X* sent, X* all, std::int64_t elements) {
    return communicator_.start_all_gather(sent, all, static_cast<std::size_t>(elements) * sizeof(X));
  }
  template <class X>
  CallStatus gather(const X* sent, X* all, std::int64_t elements) {
    if (CallStatus status = start_gather(sent, all, elements); !status) return status;
    return finish();
  }

  const PartLayout& layout_;
  const PartPlan plan_;
  const PartSizes& sizes_;
  const PartMemory<A>& memory_;
  Calls& calls_;
  C& communicator_;
  int sent_ways_ = 1;
};

}  // namespace cottention::sequence_parallel
