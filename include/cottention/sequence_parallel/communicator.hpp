// What calls on parts of sequences ask of the ranks that hold them.
#pragma once

#include <cottention/host_only.hpp>

#include <concepts>
#include <cstddef>

#include <cottention/arguments.hpp>
#include <cottention/status.hpp>

namespace cottention {

/// What of its sequences a rank holds. Ranks hold contiguous parts, in the order of ranks, of any lengths,
/// none included. The arguments of a call are those of the rank's part.
///
/// In a batch that is not packed every rank has a part of every sequence: `shape.batch` is the same on all.
/// In a packed batch a rank has the sequences first_sequence to first_sequence + batch - 1 of the whole
/// batch; the first of them may have begun on ranks before, and the last may go on on ranks behind. Where
/// ranks have sequences at all, each begins with the last one of the rank before or with the one after it.
template <Element T>
struct SequencePart {
  std::int64_t first_sequence = 0;  ///< of a packed batch; otherwise 0
  /// What `forward` sums over the states of other ranks, kept for `backward`, which reads it where every rank
  /// gives it and otherwise makes it again. [slots, heads_kv, dim_qk, dim_v], `slots` being part_slots<P>.
  Accumulate<T>* incoming_h = nullptr;
};

/// States in `incoming_h`: `batch` of a batch that is not packed; of a packed one 1, that of the first
/// sequence, or where attention is bidirectional 2, those of the first and the last.
template <AnyProblem P, class Arguments>
std::int64_t part_slots(const Arguments& args) {
  if (!args.cu_seqlens_q.given()) return args.shape.batch;
  return P::mask == Mask::causal ? 1 : 2;
}

/// Bytes that a rank gives to `exchange`, at most.
inline constexpr std::size_t max_exchange_bytes = 256;

/// The ranks of a call. All call its members in the same order with the same numbers of bytes. An error of
/// one rank alone should neither leave the others waiting nor a gather of its own under way.
///
///     rank()                               this rank, from 0
///     size()                               how many there are
///     exchange(send, bytes, received)      `bytes` from every rank, in host memory: points `received` to
///                                          those of all, in the order of ranks, valid until the next call of
///                                          it. Waits
///     start_all_gather(send, all, bytes)   the same in the memory of the calls, [size, bytes]; need not
///                                          wait. At most one is under way
///     finish_all_gather()                  after this, `all` may be read and `send` written: at once on the
///                                          CPU, by what comes later in the stream on a GPU
template <class C>
concept Communicator = requires(C& c, const void* send, const void*& received, void* all, std::size_t bytes) {
  { c.rank() } -> std::convertible_to<int>;
  { c.size() } -> std::convertible_to<int>;
  { c.exchange(send, bytes, received) } -> std::same_as<CallStatus>;
  { c.start_all_gather(send, all, bytes) } -> std::same_as<CallStatus>;
  { c.finish_all_gather() } -> std::same_as<CallStatus>;
};

}  // namespace cottention
