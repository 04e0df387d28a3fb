// Sequences split over GPUs: `agree`, and then `forward` and `backward` of a rank that holds a part of them
// (docs/sequence_parallel.md). An optional header; nccl.cuh has ranks that are GPUs of NCCL.
#pragma once

#include <cottention/requirements.hpp>

#include <cottention/host_only.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <cottention/backward.cuh>
#include <cottention/forward.cuh>
#include <cottention/kernel/sum.cuh>
#include <cottention/sequence_parallel/backward.hpp>
#include <cottention/sequence_parallel/forward.hpp>

namespace cottention {

/// What ranks have agreed on for calls of one kind, forward or backward: who holds what. It holds for other
/// lengths, data and memory, too, but not where any rank changes its Problem, batch, first_sequence, heads,
/// whether the batch is packed, or whether incoming_h or dscale_logit is given. Made by `agree`.
struct PartAgreement {
  sequence_parallel::PartHeader header;  ///< what this rank has said
  sequence_parallel::PartLayout layout;
  bool is_made = false;
};

namespace host {

/// How far the calls of a part go: until their scratch is known, their kernels' code is found, or they are
/// launched.
enum class PartStage { measured, prepared, launched };

/// The calls that a call on a part is made of.
template <AnyProblem P, Tiling... tiling>
class DevicePartCalls {
 public:
  using T = typename P::element;

  DevicePartCalls(const device::Properties& device, Split split, PartStage stage, Workspace scratch = {},
                  cudaStream_t stream = nullptr)
      : device_(device), split_(split), stage_(stage), scratch_(scratch), stream_(stream) {}

  /// Scratch memory that is enough for all calls so far.
  std::size_t scratch_bytes() const { return scratch_bytes_; }

  CallStatus forward(const ForwardArguments<T>& args) {
    return select<ForwardRows<P, tiling...>>(workload(args, split_), device_, [&]<Tiling taken>() {
      return take(ForwardCall<P, taken>(args, split_, device_, TrailingRows::kept));
    });
  }
  CallStatus backward(const BackwardArguments<T>& args) {
    return take(BackwardCall<P, tiling...>(args, split_, device_, TrailingRows::kept));
  }
  template <class Arguments>
  CallStatus clear_trailing(const Arguments& args) {
    if (stage_ == PartStage::measured) return {};
    return run(TrailingCall<T, Arguments>(args), device_, {}, stream_, until());
  }
  template <class Arguments>
  CallStatus count(const Arguments& args, std::int64_t* to) {
    return take_kernel<kernel::Count>({args.shape.batch}, {tile::view(args.cu_seqlens_k), args.key_mask,
                                                           args.shape.seq_k, args.initial_state.count, to});
  }
  template <class X>
  CallStatus sum(X* to, const sequence_parallel::SumTerms<X>& terms, std::int64_t elements) {
    using Sum = kernel::ArraySum<X>;
    static_assert(Sum::Params::max_runs == sequence_parallel::SumTerms<X>::max_runs);
    if (elements == 0) return {};
    const std::int64_t blocks = Sum::blocks(elements);
    typename Sum::Params params{
        .runs = {}, .count = terms.count, .to = to, .elements = elements, .blocks = blocks};
    for (int i = 0; i < terms.count; ++i)
      params.runs[i] = {terms.runs[i].first, terms.runs[i].count, terms.runs[i].stride};
    return take_kernel<Sum>({blocks}, params);
  }
  CallStatus set_zero(void* data, std::size_t bytes) {
    return stage_ == PartStage::launched ? device::set_zero(data, bytes, stream_) : CallStatus{};
  }

 private:
  Until until() const { return stage_ == PartStage::launched ? Until::launched : Until::prepared; }

  template <class Call>
  CallStatus take(const Call& call) {
    scratch_bytes_ = (std::max)(scratch_bytes_, call.workspace_bytes());
    if (stage_ == PartStage::measured) return {};
    return run(call, device_, scratch_, stream_, until());
  }
  template <class Kernel>
  CallStatus take_kernel(device::Grid grid, const typename Kernel::Params& params) {
    if (stage_ == PartStage::measured) return {};
    Launches launches(device_, stream_);
    launches.template prepare<Kernel>();
    if (stage_ == PartStage::launched) launches.template launch<Kernel>(grid, params);
    return launches.status();
  }

  const device::Properties& device_;
  Split split_;
  PartStage stage_;
  Workspace scratch_;
  cudaStream_t stream_;
  std::size_t scratch_bytes_ = 0;
};

/// Ranks that exchange nothing.
struct RanksUnasked {
  int rank() const { return 0; }
  int size() const { return 1; }
  CallStatus exchange(const void*, std::size_t, const void*&) { return {}; }
  CallStatus start_all_gather(const void*, void*, std::size_t) { return {}; }
  CallStatus finish_all_gather() { return {}; }
};

/// The memory of a call on a part: first what it exchanges, then the scratch of the calls it is made of.
template <AnyProblem P, class Arguments>
class PartWorkspace {
 public:
  using A = Accumulate<typename P::element>;
  using Memory = sequence_parallel::PartMemory<A>;

  /// Without memory pointers are to addresses that nothing may read.
  PartWorkspace(const Arguments& args, int ranks, Workspace given = {})
      : sizes_(sequence_parallel::sizes_of<P>(args, ranks)) {
    void* const unread = reinterpret_cast<void*>(device_workspace_alignment);
    cottention::detail::Carver carver(given.data != nullptr ? given.data : unread,
                                      device_workspace_alignment);
    memory_ = Memory::take(carver, sizes_);
    fits_ = carver.fits();
    bytes_ = carver.bytes();
    if (given.data != nullptr && bytes_ <= given.bytes)
      scratch_ = {static_cast<std::byte*>(given.data) + bytes_, given.bytes - bytes_};
  }

  const sequence_parallel::PartSizes& sizes() const { return sizes_; }
  const Memory& memory() const { return memory_; }
  Workspace scratch() const { return scratch_; }
  /// Bytes of what is exchanged, and whether there are addresses for them.
  std::size_t bytes() const { return bytes_; }
  bool fits() const { return fits_; }

 private:
  sequence_parallel::PartSizes sizes_;
  Memory memory_;
  Workspace scratch_;
  std::size_t bytes_ = 0;
  bool fits_ = false;
};

/// Makes the calls of a part in their order.
template <AnyProblem P, class Arguments, class Calls, Communicator C>
CallStatus make_part_calls(const Arguments& args, const SequencePart<typename P::element>& part,
                           const sequence_parallel::PartLayout& layout,
                           const PartWorkspace<P, Arguments>& workspace, Calls& calls, C& communicator) {
  sequence_parallel::PartExchange<P, Calls, C> exchange(layout, workspace.sizes(), workspace.memory(), calls,
                                                        communicator);
  CallStatus status;
  if constexpr (requires { args.dout; })
    status = sequence_parallel::backward_part<P>(args, part, exchange);
  else
    status = sequence_parallel::forward_part<P>(args, part, exchange);
  return status ? calls.clear_trailing(args) : status;
}

/// Makes all calls that a part may be made of, whichever of its sequences other ranks hold: none, the first,
/// or the first and the last; each with and without the gradient of m, which others may want.
template <AnyProblem P, class Arguments, class Calls>
CallStatus make_all_part_calls(const Arguments& args, const SequencePart<typename P::element>& part,
                               const PartWorkspace<P, Arguments>& workspace, Calls& calls) {
  using sequence_parallel::Holders;
  constexpr Holders mine{1, 1}, everybody{0, 2}, before{0, 1}, behind{1, 2};
  constexpr Holders ends[][2] = {{mine, mine}, {everybody, mine}, {before, behind}};
  constexpr bool backward = requires { args.dout; };
  const bool packed = args.cu_seqlens_q.given();
  RanksUnasked nobody;
  for (const auto& [front, back] : ends)
    for (const bool dscale_logit : {false, true}) {
      if (dscale_logit && !backward) continue;
      const sequence_parallel::PartLayout layout{.rank = 1,
                                                 .ranks = 3,
                                                 .packed = packed,
                                                 .batch = args.shape.batch,
                                                 .any_shared = front.several(),
                                                 .front = front,
                                                 .back = back,
                                                 .any_wants_dscale_logit = dscale_logit};
      if (CallStatus status = make_part_calls<P>(args, part, layout, workspace, calls, nobody); !status)
        return status;
    }
  return {};
}

/// Checks what of a part's workspace needs no pointer, and measures it.
template <AnyProblem P, Tiling... tiling, class Arguments>
CallStatus part_bytes(const Arguments& args, int ranks, Split split, device::Properties& device,
                      std::size_t& bytes) {
  require_device_tiling<tiling...>();
  static_assert(
      ((tiling.engine == Engine::mma_sync) && ...),
      "cottention: a Tiling of a call on a part must be of Engine::mma_sync, because some of the calls "
      "that it is made of have tensors without heads, which TMA does not take. Remedy: none, for the "
      "library's choice, which takes wgmma where it can.");
  bytes = 0;
  if (ranks < 1) return CallStatus::failure(StatusCode::bad_option, "ranks = %d: must be at least 1", ranks);
  if (CallStatus status = validate_extents<P>(args, split); !status) return status;
  if (CallStatus status = device::current_device(device); !status) return status;
  if (CallStatus status = validate_engine<tiling...>(workload(args, split), device); !status) return status;
  const PartWorkspace<P, Arguments> workspace(args, ranks);
  DevicePartCalls<P, tiling...> calls(device, split, PartStage::measured);
  if (workspace.fits())
    if (CallStatus status = make_all_part_calls<P>(args, {}, workspace, calls); !status) return status;
  constexpr auto largest = static_cast<std::size_t>(cottention::detail::largest_span);
  if (!workspace.fits() || calls.scratch_bytes() > largest - workspace.bytes())
    return CallStatus::failure(StatusCode::bad_shape,
                               "shape, ranks: there are no addresses for the states of %d ranks", ranks);
  bytes = workspace.bytes() + calls.scratch_bytes();
  return {};
}

/// Checks what of a call on a part needs no other rank.
template <AnyProblem P, Tiling... tiling, class Arguments>
CallStatus validate_part(const Arguments& args, const SequencePart<typename P::element>& part, int ranks,
                         Workspace workspace, Split split, device::Properties& device) {
  if (CallStatus status = sequence_parallel::validate_no_pool(args); !status) return status;
  if (CallStatus status = validate_call<P>(args, split); !status) return status;
  if (CallStatus status = sequence_parallel::validate_incoming_h<P>(args, part); !status) return status;
  if (CallStatus status =
          sequence_parallel::validate_first_sequence(part.first_sequence, args.cu_seqlens_q.given());
      !status)
    return status;
  if (CallStatus status = detail::validate_aligned("part.incoming_h", "", part.incoming_h); !status)
    return status;
  if (CallStatus status = sequence_parallel::validate_wanted(args); !status) return status;
  std::size_t bytes = 0;
  if (CallStatus status = part_bytes<P, tiling...>(args, ranks, split, device, bytes); !status) return status;
  return validate_workspace(workspace, bytes);
}

template <AnyProblem P, Tiling... tiling, class Arguments, Communicator C>
CallStatus agree_on(const Arguments& args, const SequencePart<typename P::element>& part, C& communicator,
                    Workspace workspace, PartAgreement& agreement, Split split) {
  agreement = {};
  device::Properties device;
  CallStatus valid = validate_part<P, tiling...>(args, part, communicator.size(), workspace, split, device);
  if (valid) {
    const PartWorkspace<P, Arguments> memory(args, communicator.size(), workspace);
    DevicePartCalls<P, tiling...> calls(device, split, PartStage::prepared, memory.scratch());
    valid = make_all_part_calls<P>(args, part, memory, calls);
  }
  const auto header = sequence_parallel::header_of<P>(args, part);
  sequence_parallel::PartLayout layout;
  if (CallStatus status = sequence_parallel::agree(communicator, valid, header, layout); !status)
    return status;
  agreement = {header, layout, true};
  return {};
}

/// Enqueues a call on a part.
template <AnyProblem P, Tiling... tiling, class Arguments, Communicator C>
CallStatus run_agreed(const Arguments& args, const SequencePart<typename P::element>& part,
                      const PartAgreement& agreement, C& communicator, Workspace workspace,
                      cudaStream_t stream, Split split) {
  const int ranks = communicator.size();
  if (!agreement.is_made || agreement.layout.ranks != ranks || agreement.layout.rank != communicator.rank())
    return CallStatus::failure(StatusCode::bad_option,
                               "agreement: must be made by agree() with this communicator");
  const auto header = sequence_parallel::header_of<P>(args, part);
  if (CallStatus status = sequence_parallel::validate_agreed(agreement.header, header); !status)
    return status;
  device::Properties device;
  if (CallStatus status = validate_part<P, tiling...>(args, part, ranks, workspace, split, device); !status)
    return status;
  const PartWorkspace<P, Arguments> memory(args, ranks, workspace);
  DevicePartCalls<P, tiling...> calls(device, split, PartStage::launched, memory.scratch(), stream);
  return make_part_calls<P>(args, part, agreement.layout, memory, calls, communicator);
}

}  // namespace host

/// Bytes of scratch that a rank needs on the calling thread's current device for its part, with so many
/// ranks; pointers need not be set yet. Anything but ok names what of the shape, of `ranks` or of `split`
/// would be refused, or carries the number of CUDA's error; then `bytes` is 0.
template <AnyProblem P, Tiling... tiling>
[[nodiscard]] CallStatus part_workspace_bytes(const ForwardArguments<typename P::element>& args, int ranks,
                                              std::size_t& bytes, Split split = {}) {
  device::Properties device;
  return host::part_bytes<P, tiling...>(args, ranks, split, device, bytes);
}
template <AnyProblem P, Tiling... tiling>
[[nodiscard]] CallStatus part_workspace_bytes(const BackwardArguments<typename P::element>& args, int ranks,
                                              std::size_t& bytes, Split split = {}) {
  device::Properties device;
  return host::part_bytes<P, tiling...>(args, ranks, split, device, bytes);
}

/// Makes all ranks agree on calls with such arguments. All ranks call it together. The one function here that
/// communicates on the host, by the communicator's `exchange`, which waits for the other ranks: once for
/// calls of a kind, not while a stream is captured. It checks all that the call would, finds the code of all
/// kernels, and launches nothing.
///
/// A status that is not ok is the same on every rank and names the lowest rank at fault.
template <AnyProblem P, Tiling... tiling, Communicator C>
[[nodiscard]] CallStatus agree(const ForwardArguments<typename P::element>& args,
                               const SequencePart<typename P::element>& part, C& communicator,
                               Workspace workspace, PartAgreement& agreement, Split split = {}) {
  return host::agree_on<P, tiling...>(args, part, communicator, workspace, agreement, split);
}
template <AnyProblem P, Tiling... tiling, Communicator C>
[[nodiscard]] CallStatus agree(const BackwardArguments<typename P::element>& args,
                               const SequencePart<typename P::element>& part, C& communicator,
                               Workspace workspace, PartAgreement& agreement, Split split = {}) {
  return host::agree_on<P, tiling...>(args, part, communicator, workspace, agreement, split);
}

/// `forward` over sequences of which this rank holds a part, enqueued on `stream`, that of the communicator.
/// All ranks call it together, as they have agreed. As `forward` of whole sequences, but for
///
///     initial_state   read on the first of the ranks that hold a sequence, ignored on the others
///     final_state     causal: behind this rank's part, so on the last of the ranks that of the whole
///                     sequence; bidirectional: that of the whole sequence, on every rank
///     workspace       part_workspace_bytes<P>(args, ranks, ...) bytes
///
/// Allocates nothing, waits for nothing, and may be captured in a graph, where the communicator's gathers do
/// and may. Equal calls give equal bits.
///
/// What a call refuses after ranks have agreed, it refuses on this rank alone, before it has launched
/// anything; others wait for it then on their GPUs. An error of CUDA or of the communicator may come in the
/// middle of a call.
template <AnyProblem P, Tiling... tiling, Communicator C>
[[nodiscard]] CallStatus forward(const ForwardArguments<typename P::element>& args,
                                 const SequencePart<typename P::element>& part,
                                 const PartAgreement& agreement, C& communicator, Workspace workspace,
                                 cudaStream_t stream, Split split = {}) {
  return host::run_agreed<P, tiling...>(args, part, agreement, communicator, workspace, stream, split);
}

/// `backward` likewise:
///
///     initial_state    as in `forward`
///     dfinal_state     read on the last of the ranks that hold a sequence, ignored on the others
///     dinitial_state   causal: with respect to the state before this rank's part, so on the first of the
///                      ranks that of the sequence's initial state; bidirectional: that, on every rank
///     dscale_logit     the sum over all ranks, on every rank that wants it
///     final_h          final_state.h of `forward` on this rank
template <AnyProblem P, Tiling... tiling, Communicator C>
[[nodiscard]] CallStatus backward(const BackwardArguments<typename P::element>& args,
                                  const SequencePart<typename P::element>& part,
                                  const PartAgreement& agreement, C& communicator, Workspace workspace,
                                  cudaStream_t stream, Split split = {}) {
  return host::run_agreed<P, tiling...>(args, part, agreement, communicator, workspace, stream, split);
}

}  // namespace cottention
