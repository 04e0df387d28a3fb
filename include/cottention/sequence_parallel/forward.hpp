// The forward pass over a part of sequences, on any backend.
#pragma once

#include <cottention/host_only.hpp>

#include <cottention/sequence_parallel/exchange.hpp>

namespace cottention::sequence_parallel {

/// Reduces what other ranks need, and computes the part's own sequences while that is on its way:
///
///     causal          H of the part, exchange, walk from H of the ranks before
///     bidirectional   H of the part, exchange, apply H of all ranks
template <AnyProblem P, class Calls, Communicator C>
CallStatus forward_part(const ForwardArguments<typename P::element>& args,
                        const SequencePart<typename P::element>& part, PartExchange<P, Calls, C>& exchange) {
  using A = Accumulate<typename P::element>;
  if (CallStatus status = exchange.counts(args); !status) return status;
  const bool any_shared = exchange.layout().any_shared;
  if (any_shared) {
    if (CallStatus status = exchange.clear_sent(); !status) return status;
    for (const SharedSequences& s : exchange.plan())
      if (exchange.sends_h(s))
        if (CallStatus status = exchange.make_h(args, s); !status) return status;
    if (CallStatus status = exchange.start(true, false); !status) return status;
  }
  CallStatus own = exchange.calls().forward(slice(args, exchange.plan().own));
  if (any_shared) own = exchange.finish_after(own);
  if (!own) return own;
  for (const SharedSequences& s : exchange.plan()) {
    ForwardArguments<typename P::element> shared = slice(args, s.range);
    if (exchange.needs_h(s)) {
      A* h = exchange.incoming_h(s, part.incoming_h);
      if (CallStatus status = exchange.sum_h(s, h); !status) return status;
      shared.initial_state = {h, exchange.memory().counts[s.slot]};
    }
    if (P::mask == Mask::bidirectional) drop_keys(shared, exchange.memory().none);
    if (CallStatus status = exchange.calls().forward(shared); !status) return status;
  }
  return {};
}

}  // namespace cottention::sequence_parallel
