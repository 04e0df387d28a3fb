// All gradients of a part of sequences, on any backend.
#pragma once

#include <cottention/host_only.hpp>

#include <cottention/sequence_parallel/exchange.hpp>

namespace cottention::sequence_parallel {

/// The gradients of sequences that other ranks hold too, from H and D of these.
template <AnyProblem P, class Calls, Communicator C>
CallStatus shared_gradients(const BackwardArguments<typename P::element>& args, const SharedSequences& s,
                            const Accumulate<typename P::element>* h,
                            const PartExchange<P, Calls, C>& exchange) {
  BackwardArguments<typename P::element> shared = slice(args, s.range);
  const auto& memory = exchange.memory();
  if constexpr (P::mask == Mask::causal) {
    if (exchange.needs_h(s)) shared.initial_state = {h, memory.counts[s.slot]};
    if (exchange.needs_d(s)) shared.dfinal_state = memory.d[s.slot];
    return exchange.calls().backward(shared);
  } else {
    // Without keys dq is H applied to g; without queries dk and dv are D applied to v and k.
    BackwardArguments<typename P::element> queries = shared, keys = shared;
    queries.dk = queries.dv = {};
    queries.dfinal_state = nullptr;
    queries.dinitial_state = nullptr;
    queries.final_h = nullptr;
    queries.initial_state = {h, memory.counts[s.slot]};
    if (P::scale == Scale::by_key) queries.dscale_logit = nullptr;
    drop_keys(queries, memory.none);
    if (CallStatus status = exchange.calls().backward(queries); !status) return status;
    keys.dq = {};
    keys.final_h = nullptr;
    keys.initial_state = {nullptr, memory.other_counts[s.slot]};
    keys.dfinal_state = memory.d[s.slot];
    if (P::scale != Scale::by_key) keys.dscale_logit = nullptr;
    drop_queries(keys, memory.none);
    return exchange.calls().backward(keys);
  }
}

/// Reduces what other ranks need, and computes the gradients of the part's own sequences while that is on its
/// way:
///
///     causal          H and D of the part, exchange, gradients from H of the ranks before and D of those
///                     behind
///     bidirectional   H and D of the part, exchange, apply H of all to g, and D of all to k and v
template <AnyProblem P, class Calls, Communicator C>
CallStatus backward_part(const BackwardArguments<typename P::element>& args,
                         const SequencePart<typename P::element>& part, PartExchange<P, Calls, C>& exchange) {
  using T = typename P::element;
  const PartLayout& layout = exchange.layout();
  const bool sends_h = !layout.all_have_incoming_h;
  if (CallStatus status = exchange.counts(args); !status) return status;
  if (layout.any_wants_dscale_logit)
    if (CallStatus status = exchange.clear_dscale_logit(); !status) return status;
  if (layout.any_shared) {
    if (CallStatus status = exchange.clear_sent(); !status) return status;
    for (const SharedSequences& s : exchange.plan()) {
      if (sends_h && exchange.sends_h(s))
        if (CallStatus status = exchange.make_h(args, s); !status) return status;
      if (exchange.sends_d(s))
        if (CallStatus status = exchange.make_d(args, s); !status) return status;
    }
    if (CallStatus status = exchange.start(sends_h, true); !status) return status;
  }
  int calls = 0;
  const auto with_dscale_logit = [&](BackwardArguments<T> given) {
    // Ranks that do not want it have terms of it.
    if (layout.any_wants_dscale_logit) given.dscale_logit = exchange.dscale_logit_of_call(calls);
    ++calls;
    return given;
  };
  CallStatus own = exchange.calls().backward(with_dscale_logit(slice(args, exchange.plan().own)));
  if (layout.any_shared) own = exchange.finish_after(own);
  if (!own) return own;
  for (const SharedSequences& s : exchange.plan()) {
    Accumulate<T>* h = exchange.incoming_h(s, part.incoming_h);
    if (sends_h && exchange.needs_h(s))
      if (CallStatus status = exchange.sum_h(s, h); !status) return status;
    if (exchange.needs_d(s))
      if (CallStatus status = exchange.sum_d(s); !status) return status;
    if (CallStatus status = shared_gradients<P>(with_dscale_logit(args), s, h, exchange); !status)
      return status;
  }
  return layout.any_wants_dscale_logit ? exchange.sum_dscale_logit(args.dscale_logit) : CallStatus{};
}

}  // namespace cottention::sequence_parallel
