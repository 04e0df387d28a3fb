// Sequences split over processes, on the CPU: `forward` and `backward` of a rank that holds a part of them
// (docs/sequence_parallel.md). An optional header; mpi.hpp has ranks that are processes of MPI.
#pragma once

#include <cottention/requirements.hpp>

#include <cottention/host_only.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <cottention/cpu.hpp>
#include <cottention/sequence_parallel/backward.hpp>
#include <cottention/sequence_parallel/forward.hpp>

namespace cottention::cpu::COTTENTION_CPU_TARGET {
namespace detail {

/// The calls that a call on a part is made of.
template <AnyProblem P, Tiling tile, int vector_bytes>
class HostPartCalls {
 public:
  using T = typename P::element;

  HostPartCalls(Workspace scratch, const Execution& execution) : scratch_(scratch), execution_(execution) {}

  CallStatus forward(const ForwardArguments<T>& args) const {
    run_forward<P, tile, vector_bytes>(args, scratch_, execution_);
    return {};
  }
  CallStatus backward(const BackwardArguments<T>& args) const {
    run_backward<P, tile, vector_bytes>(args, scratch_, execution_);
    return {};
  }
  template <class Arguments>
  CallStatus count(const Arguments& args, std::int64_t* to) const {
    const CallView<P, Arguments> view(args);
    for (std::int64_t b = 0; b < args.shape.batch; ++b) {
      const Sequence s = view.sequence(b);
      to[b] = view.initial_count(s) + view.unmasked_keys(s);
    }
    return {};
  }
  template <class X>
  CallStatus sum(X* to, const sequence_parallel::SumTerms<X>& terms, std::int64_t elements) const {
    using Sum = std::conditional_t<std::same_as<X, float>, double, X>;
    for (std::int64_t e = 0; e < elements; ++e) {
      Sum sum = 0;
      for (int i = 0; i < terms.count; ++i) {
        const sequence_parallel::ArrayRun<X>& run = terms.runs[i];
        for (std::int64_t n = 0; n < run.count; ++n) sum += static_cast<Sum>(run.first[n * run.stride + e]);
      }
      to[e] = static_cast<X>(sum);
    }
    return {};
  }
  CallStatus set_zero(void* data, std::size_t bytes) const {
    std::memset(data, 0, bytes);
    return {};
  }

 private:
  Workspace scratch_;
  const Execution& execution_;
};

/// Places the memory of a call on a part. Returns the bytes of the calls that it is made of, which is the
/// rest.
template <AnyProblem P, Tiling tile, class Arguments>
CallStatus part_bytes(const Arguments& args, int ranks, std::size_t& own, std::size_t& rest,
                      const Execution& execution) {
  own = rest = 0;
  if (ranks < 1) return CallStatus::failure(StatusCode::bad_option, "ranks = %d: must be at least 1", ranks);
  if (CallStatus status = call_workspace_bytes<P, tile>(args, rest, execution); !status) return status;
  std::size_t keys = 0;
  const auto keys_alone = sequence_parallel::keys_alone(args);
  if (CallStatus status = call_workspace_bytes<P, tile>(keys_alone, keys, execution); !status) return status;
  rest = (std::max)(rest, keys);
  Carver carver;
  sequence_parallel::PartMemory<Accumulate<typename P::element>>::take(
      carver, sequence_parallel::sizes_of<P>(args, ranks));
  carver.take<std::byte>(static_cast<std::int64_t>(rest));
  if (!carver.fits())
    return CallStatus::failure(StatusCode::bad_shape,
                               "shape, ranks: there are no addresses for the states of %d ranks", ranks);
  own = carver.bytes() - static_cast<std::size_t>(round_up(static_cast<std::int64_t>(rest),
                                                           static_cast<std::int64_t>(workspace_alignment)));
  return {};
}

/// Checks what of a call on a part needs no other rank.
template <AnyProblem P, Tiling tile, class Arguments>
CallStatus validate_part(const Arguments& args, const SequencePart<typename P::element>& part, int ranks,
                         Workspace workspace, std::size_t& own, const Execution& execution) {
  std::size_t rest = 0;
  if (CallStatus status = validate(execution); !status) return status;
  if (CallStatus status = sequence_parallel::validate_no_pool(args); !status) return status;
  if (CallStatus status = validate<P>(args); !status) return status;
  if (CallStatus status = sequence_parallel::validate_incoming_h<P>(args, part); !status) return status;
  if (CallStatus status = validate_contents<P>(args); !status) return status;
  if (CallStatus status =
          sequence_parallel::validate_first_sequence(part.first_sequence, args.cu_seqlens_q.given());
      !status)
    return status;
  if (CallStatus status = sequence_parallel::validate_wanted(args); !status) return status;
  if (CallStatus status = part_bytes<P, tile>(args, ranks, own, rest, execution); !status) return status;
  const int threads = available_threads(execution);
  if (workspace.data != nullptr && workspace.bytes < own + rest)
    return CallStatus::failure(
        StatusCode::bad_workspace,
        "workspace.bytes = %zu: must be at least %zu, as part_workspace_bytes says for "
        "ranks = %d and threads = %d",
        workspace.bytes, own + rest, ranks, threads);
  return validate(workspace, own + rest, threads);
}

/// Agrees with the other ranks, and calls run(exchange).
template <AnyProblem P, Tiling tile, int vector_bytes, class Arguments, Communicator C, class Run>
CallStatus run_part(const Arguments& args, const SequencePart<typename P::element>& part, C& communicator,
                    Workspace workspace, const Execution& execution, Run run) {
  using namespace sequence_parallel;
  using Calls = HostPartCalls<P, tile, vector_bytes>;
  std::size_t own = 0;
  const CallStatus valid = validate_part<P, tile>(args, part, communicator.size(), workspace, own, execution);
  PartLayout layout;
  if (CallStatus status = agree(communicator, valid, header_of<P>(args, part), layout); !status)
    return status;
  const PartSizes sizes = sizes_of<P>(args, layout.ranks);
  Carver carver(workspace.data);
  const auto memory = PartMemory<Accumulate<typename P::element>>::take(carver, sizes);
  Calls calls({static_cast<std::byte*>(workspace.data) + own, workspace.bytes - own}, execution);
  PartExchange<P, Calls, C> exchange(layout, sizes, memory, calls, communicator);
  return run(exchange);
}

}  // namespace detail

/// Bytes of scratch that a rank needs for its part, with so many ranks. They do not grow with the lengths of
/// sequences. Anything but ok names what of the shape, of `ranks` or of `execution` would be refused; then
/// `bytes` is 0.
template <AnyProblem P, Tiling tile = tuned_tiling<P>>
[[nodiscard]] CallStatus part_workspace_bytes(const ForwardArguments<typename P::element>& args, int ranks,
                                              std::size_t& bytes, const Execution& execution = {}) {
  std::size_t own = 0, rest = 0;
  CallStatus status = detail::part_bytes<P, tile>(args, ranks, own, rest, execution);
  bytes = status ? own + rest : 0;
  return status;
}
template <AnyProblem P, Tiling tile = tuned_tiling<P>>
[[nodiscard]] CallStatus part_workspace_bytes(const BackwardArguments<typename P::element>& args, int ranks,
                                              std::size_t& bytes, const Execution& execution = {}) {
  std::size_t own = 0, rest = 0;
  CallStatus status = detail::part_bytes<P, tile>(args, ranks, own, rest, execution);
  bytes = status ? own + rest : 0;
  return status;
}

/// `forward` over sequences of which this rank holds a part. All ranks call it together, with the same
/// Problem, heads and head dims. As `forward` of whole sequences, but for
///
///     initial_state   read on the first of the ranks that hold a sequence, ignored on the others
///     final_state     causal: behind this rank's part, so on the last of the ranks that of the whole
///                     sequence; bidirectional: that of the whole sequence, on every rank
///     workspace       part_workspace_bytes<P>(args, ranks, ...) bytes
///
/// Results depend neither on timing nor on the number of threads, bit for bit. A status that is not ok is the
/// same on every rank, names the lowest rank at fault, and means that nothing has been written, unless its
/// code is communication_error.
template <AnyProblem P, Tiling tile = tuned_tiling<P>, int vector_bytes = default_vector_bytes,
          Communicator C>
[[nodiscard]] CallStatus forward(const ForwardArguments<typename P::element>& args,
                                 const SequencePart<typename P::element>& part, C& communicator,
                                 Workspace workspace, const Execution& execution = {}) {
  return detail::run_part<P, tile, vector_bytes>(
      args, part, communicator, workspace, execution, [&](auto& exchange) {
        CallStatus status = sequence_parallel::forward_part<P>(args, part, exchange);
        CallView<P, ForwardArguments<typename P::element>>(args).clear_trailing(Output::o, execution);
        return status;
      });
}

/// `backward` likewise:
///
///     initial_state    as in `forward`
///     dfinal_state     read on the last of the ranks that hold a sequence, ignored on the others
///     dinitial_state   causal: with respect to the state before this rank's part, so on the first of the
///                      ranks that of the sequence's initial state; bidirectional: that, on every rank
///     dscale_logit     the sum over all ranks, on every rank that wants it
///     final_h          final_state.h of `forward` on this rank
template <AnyProblem P, Tiling tile = tuned_tiling<P>, int vector_bytes = default_vector_bytes,
          Communicator C>
[[nodiscard]] CallStatus backward(const BackwardArguments<typename P::element>& args,
                                  const SequencePart<typename P::element>& part, C& communicator,
                                  Workspace workspace, const Execution& execution = {}) {
  return detail::run_part<P, tile, vector_bytes>(
      args, part, communicator, workspace, execution, [&](auto& exchange) {
        CallStatus status = sequence_parallel::backward_part<P>(args, part, exchange);
        const CallView<P, BackwardArguments<typename P::element>> view(args);
        for (const Output output : {Output::dq, Output::dk, Output::dv})
          view.clear_trailing(output, execution);
        return status;
      });
}

}  // namespace cottention::cpu::COTTENTION_CPU_TARGET
