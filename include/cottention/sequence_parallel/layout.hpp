// Which ranks hold which sequences, agreed upon before anything is computed.
#pragma once

#include <cottention/host_only.hpp>

#include <algorithm>
#include <cstdint>

#include <cottention/sequence_parallel/communicator.hpp>
#include <cottention/validation.hpp>

namespace cottention::sequence_parallel {

/// Ranks first to last have tokens of a sequence, or hold it as an empty one. Where a rank sends the states
/// of its first sequence and of its last, the first of the ranks has this one in slot `first_slot`, and all
/// others have it in slot 0.
struct Holders {
  int first = 0, last = 0;
  int first_slot = 0;

  bool several() const { return first < last; }
  int slot(int rank) const { return rank == first ? first_slot : 0; }
};

/// What every rank tells all others.
struct PartHeader {
  std::int64_t code = 0;  ///< of the rank's own status
  std::int64_t call = 0;  ///< 0: forward, 1: backward
  std::int64_t problem = 0, packed = 0;
  std::int64_t batch = 0, first_sequence = 0;
  std::int64_t heads_q = 0, heads_kv = 0, dim_qk = 0, dim_v = 0;
  std::int64_t has_incoming_h = 0, wants_dscale_logit = 0;

  std::int64_t last_sequence() const { return first_sequence + batch - 1; }
};

/// What follows from the headers of all ranks.
struct PartLayout {
  int rank = 0, ranks = 1;
  bool packed = false;
  std::int64_t batch = 0;
  bool any_shared = false;  ///< whether several ranks hold some sequence
  Holders front, back;      ///< of the first and of the last sequence of this rank
  bool all_have_incoming_h = false;
  bool any_wants_dscale_logit = false;
};

/// What a Problem and its elements are to others.
template <AnyProblem P>
inline constexpr std::int64_t problem_number =
    (static_cast<std::int64_t>(P::mask) * 4 + static_cast<std::int64_t>(P::scale)) * 65536 +
    static_cast<std::int64_t>(element_name<typename P::element>[0]) * 256 +
    static_cast<std::int64_t>(sizeof(typename P::element));

template <AnyProblem P, class Arguments>
PartHeader header_of(const Arguments& args, const SequencePart<typename P::element>& part) {
  const Shape& s = args.shape;
  PartHeader header{.problem = problem_number<P>,
                    .packed = args.cu_seqlens_q.given(),
                    .batch = s.batch,
                    .first_sequence = part.first_sequence,
                    .heads_q = s.heads_q,
                    .heads_kv = s.heads_kv,
                    .dim_qk = s.dim_qk,
                    .dim_v = s.dim_v,
                    .has_incoming_h = part.incoming_h != nullptr};
  if constexpr (requires { args.dout; }) {
    header.call = 1;
    header.wants_dscale_logit = args.dscale_logit != nullptr;
  }
  return header;
}

/// The rule on `part` that needs no other rank.
inline CallStatus validate_first_sequence(std::int64_t first_sequence, bool packed) {
  using cottention::detail::number;
  const std::int64_t largest = packed ? cottention::detail::largest_count : 0;
  if (first_sequence >= 0 && first_sequence <= largest) return {};
  if (!packed)
    return CallStatus::failure(StatusCode::bad_option,
                               "part.first_sequence = %lld: must be 0 in a batch that is not packed",
                               number(first_sequence));
  return CallStatus::failure(StatusCode::bad_option,
                             "part.first_sequence = %lld: must be at least 0 and at most 2^62",
                             number(first_sequence));
}

/// The rule on states: calls on parts slice arrays of them by sequence.
template <class Arguments>
CallStatus validate_no_pool(const Arguments& args) {
  if constexpr (requires { args.read_slot; }) {
    if (args.checkpoint_interval != 0)
      return CallStatus::failure(StatusCode::bad_option,
                                 "checkpoint_interval = %lld: must be 0 for parts of sequences",
                                 cottention::detail::number(args.checkpoint_interval));
    if (args.read_slot != nullptr || args.write_slot != nullptr)
      return CallStatus::failure(
          StatusCode::bad_option, "%s = %p: must be null for parts of sequences",
          args.read_slot != nullptr ? "read_slot" : "write_slot",
          static_cast<const void*>(args.read_slot != nullptr ? args.read_slot : args.write_slot));
  }
  return {};
}

/// The rule on gradients: other ranks need this one's states, whose inputs are required where it wants any.
template <class Arguments>
CallStatus validate_wanted(const Arguments& args) {
  if constexpr (requires { args.dout; }) {
    const Shape& s = args.shape;
    const bool wanted = cottention::detail::wants_any(args);
    if (!wanted && s.batch > 0 && (s.seq_q > 0 || s.seq_k > 0))
      return CallStatus::failure(StatusCode::null_pointer,
                                 "dq, dk, dv, dscale_logit, dinitial_state = null: a rank with tokens must "
                                 "want one of them, since others need its states");
  }
  return {};
}

/// `incoming_h` is written, or read where others are written. Extents are those of valid arguments.
template <AnyProblem P, class Arguments>
CallStatus validate_incoming_h(const Arguments& args, const SequencePart<typename P::element>& part) {
  if (part.incoming_h == nullptr) return {};
  const Shape& s = args.shape;
  cottention::detail::Operands operands = cottention::detail::operands_of<P>(args);
  operands.array("part.incoming_h", part.incoming_h, cottention::detail::Need::optional,
                 {part_slots<P>(args), s.heads_kv, s.dim_qk, s.dim_v});
  return operands.refusal();
}

/// Whether the headers of all ranks fit together; the same on every rank.
inline CallStatus validate_headers(const PartHeader* headers, int ranks) {
  using cottention::detail::number;
  struct Equal {
    const char* name;
    std::int64_t PartHeader::*value;
  };
  for (int r = 1; r < ranks; ++r) {
    for (const Equal& x :
         {Equal{"the call, 0 for forward,", &PartHeader::call},
          Equal{"the number of the Problem", &PartHeader::problem},
          Equal{"whether cu_seqlens_q is given", &PartHeader::packed},
          Equal{"shape.heads_q", &PartHeader::heads_q}, Equal{"shape.heads_kv", &PartHeader::heads_kv},
          Equal{"shape.dim_qk", &PartHeader::dim_qk}, Equal{"shape.dim_v", &PartHeader::dim_v}})
      if (headers[r].*x.value != headers[0].*x.value)
        return CallStatus::failure(StatusCode::bad_shape, "%s = %lld on rank %d: must be %lld, as on rank 0",
                                   x.name, number(headers[r].*x.value), r, number(headers[0].*x.value));
    if (headers[0].packed == 0 && headers[r].batch != headers[0].batch)
      return CallStatus::failure(
          StatusCode::bad_shape,
          "shape.batch = %lld on rank %d: must be %lld, as on rank 0, in a batch that is not packed",
          number(headers[r].batch), r, number(headers[0].batch));
  }
  int before = -1;  // the last rank that has sequences
  for (int r = 0; headers[0].packed != 0 && r < ranks; ++r) {
    if (headers[r].batch == 0) continue;
    const std::int64_t last = before < 0 ? 0 : headers[before].last_sequence();
    const std::int64_t first = headers[r].first_sequence;
    if (before >= 0 && first != last && first != last + 1)
      return CallStatus::failure(StatusCode::bad_option,
                                 "part.first_sequence = %lld on rank %d: must be %lld or %lld, since rank %d "
                                 "ends with sequence %lld",
                                 number(first), r, number(last), number(last + 1), before, number(last));
    before = r;
  }
  return {};
}

/// Whether a call is one for which ranks have agreed: what they said of it then, and what it is.
inline CallStatus validate_agreed(const PartHeader& agreed, const PartHeader& call) {
  using cottention::detail::number;
  struct Same {
    const char* name;
    std::int64_t PartHeader::*value;
  };
  for (const Same& x :
       {Same{"the call, 0 for forward,", &PartHeader::call},
        Same{"the number of the Problem", &PartHeader::problem},
        Same{"whether cu_seqlens_q is given", &PartHeader::packed}, Same{"shape.batch", &PartHeader::batch},
        Same{"part.first_sequence", &PartHeader::first_sequence}, Same{"shape.heads_q", &PartHeader::heads_q},
        Same{"shape.heads_kv", &PartHeader::heads_kv}, Same{"shape.dim_qk", &PartHeader::dim_qk},
        Same{"shape.dim_v", &PartHeader::dim_v},
        Same{"whether part.incoming_h is given", &PartHeader::has_incoming_h},
        Same{"whether dscale_logit is given", &PartHeader::wants_dscale_logit}})
    if (call.*x.value != agreed.*x.value)
      return CallStatus::failure(StatusCode::bad_option, "%s = %lld: must be %lld, as ranks have agreed",
                                 x.name, number(call.*x.value), number(agreed.*x.value));
  return {};
}

/// The ranks that hold `sequence`, which `rank` does.
inline Holders holders_of(const PartHeader* headers, int ranks, std::int64_t sequence, int rank) {
  Holders holders{.first = rank, .last = rank};
  for (int r = 0; r < ranks; ++r)
    if (headers[r].batch > 0 && headers[r].first_sequence <= sequence &&
        sequence <= headers[r].last_sequence()) {
      holders.first = (std::min)(holders.first, r);
      holders.last = (std::max)(holders.last, r);
    }
  holders.first_slot = headers[holders.first].first_sequence == sequence ? 0 : 1;
  return holders;
}

inline PartLayout layout_of(const PartHeader* headers, int ranks, int rank) {
  const PartHeader& mine = headers[rank];
  PartLayout layout{.rank = rank,
                    .ranks = ranks,
                    .packed = mine.packed != 0,
                    .batch = mine.batch,
                    .front = {rank, rank},
                    .back = {rank, rank},
                    .all_have_incoming_h = true};
  for (int r = 0, before = -1; r < ranks; ++r) {
    layout.all_have_incoming_h = layout.all_have_incoming_h && headers[r].has_incoming_h != 0;
    layout.any_wants_dscale_logit = layout.any_wants_dscale_logit || headers[r].wants_dscale_logit != 0;
    if (headers[r].batch == 0) continue;
    if (before >= 0 && (!layout.packed || headers[before].last_sequence() == headers[r].first_sequence))
      layout.any_shared = true;
    before = r;
  }
  if (mine.batch == 0) return layout;
  if (layout.packed) {
    layout.front = holders_of(headers, ranks, mine.first_sequence, rank);
    layout.back = holders_of(headers, ranks, mine.last_sequence(), rank);
  } else {
    layout.front = layout.back = {0, ranks - 1};
  }
  return layout;
}

/// Makes every rank return the same: the status of the lowest rank that has none that is ok, with that rank
/// named, or what is wrong between ranks; else the layout.
template <Communicator C>
CallStatus agree(C& communicator, const CallStatus& own, PartHeader header, PartLayout& layout) {
  static_assert(sizeof(PartHeader) <= max_exchange_bytes && sizeof(CallStatus) <= max_exchange_bytes);
  const int ranks = communicator.size();
  const void* received = nullptr;
  header.code = static_cast<std::int64_t>(own.code);
  if (CallStatus status = communicator.exchange(&header, sizeof header, received); !status) return status;
  const auto* headers = static_cast<const PartHeader*>(received);
  int failed = 0;
  while (failed < ranks && headers[failed].code == static_cast<std::int64_t>(StatusCode::ok)) ++failed;
  if (failed < ranks) {
    if (CallStatus status = communicator.exchange(&own, sizeof own, received); !status) return status;
    const CallStatus& first = static_cast<const CallStatus*>(received)[failed];
    CallStatus status = CallStatus::failure(first.code, "rank %d: %s", failed, first.reason);
    status.cuda_error = first.cuda_error;
    return status;
  }
  if (CallStatus status = validate_headers(headers, ranks); !status) return status;
  layout = layout_of(headers, ranks, communicator.rank());
  return {};
}

}  // namespace cottention::sequence_parallel
