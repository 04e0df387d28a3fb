// The rules that arguments obey, the same for every backend, checked before anything is launched or written.
//
// `validate` looks at the argument structs alone, so it serves pointers into host and device memory alike.
// `validate_contents` reads the index arrays behind the pointers and needs them in host memory. Neither
// throws, allocates or prints. Call them in this order: the contents are read on the strength of what
// `validate` found.
#pragma once

#include <cottention/requirements.hpp>

#include <cottention/host_only.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include <cottention/overlap.hpp>
#include <cottention/pool.hpp>
#include <cottention/problem.hpp>

namespace cottention {
namespace detail {

enum class Lengths { equal, free };

/// A state holds dim_qk x dim_v numbers. Up to here that, and what scratch there is for every thread, can be
/// counted without overflow; larger states would be of no use to anyone.
inline constexpr std::int64_t largest_head_dim = 65'536;

/// Extents of one problem, `fixed` being its head dimensions where they are known at compile time.
inline CallStatus validate_shape(const Shape& shape, HeadDim fixed, Lengths lengths) {
  struct Extent {
    const char* name;
    std::int64_t value, least;
  };
  for (const Extent& x :
       {Extent{"batch", shape.batch, 0}, Extent{"seq_q", shape.seq_q, 0}, Extent{"seq_k", shape.seq_k, 0},
        Extent{"heads_q", shape.heads_q, 0}, Extent{"heads_kv", shape.heads_kv, 0},
        Extent{"dim_qk", shape.dim_qk, 1}, Extent{"dim_v", shape.dim_v, 1}})
    if (x.value < x.least)
      return CallStatus::failure(StatusCode::bad_shape, "shape.%s = %lld: must be at least %lld", x.name,
                                 number(x.value), number(x.least));
  for (const Extent& x : {Extent{"dim_qk", shape.dim_qk, 1}, Extent{"dim_v", shape.dim_v, 1}})
    if (x.value > largest_head_dim)
      return CallStatus::failure(StatusCode::bad_shape, "shape.%s = %lld: must be at most %lld", x.name,
                                 number(x.value), number(largest_head_dim));
  if (shape.heads_kv == 0 ? shape.heads_q != 0 : shape.heads_q % shape.heads_kv != 0)
    return CallStatus::failure(StatusCode::bad_shape,
                               "shape.heads_q = %lld: must be a multiple of shape.heads_kv = %lld",
                               number(shape.heads_q), number(shape.heads_kv));
  if (lengths == Lengths::equal && shape.seq_k != shape.seq_q)
    return CallStatus::failure(StatusCode::bad_shape,
                               "shape.seq_k = %lld: must equal shape.seq_q = %lld when causal",
                               number(shape.seq_k), number(shape.seq_q));
  if (fixed != any_head_dim && shape.dim_qk != fixed.qk)
    return CallStatus::failure(StatusCode::bad_shape,
                               "shape.dim_qk = %lld: must be %d, the dim_qk of the Problem",
                               number(shape.dim_qk), fixed.qk);
  if (fixed != any_head_dim && shape.dim_v != fixed.v)
    return CallStatus::failure(StatusCode::bad_shape,
                               "shape.dim_v = %lld: must be %d, the dim_v of the Problem",
                               number(shape.dim_v), fixed.v);
  return {};
}

template <AnyProblem P>
CallStatus validate_shape(const Shape& shape) {
  return validate_shape(shape, P::head_dim, P::mask == Mask::causal ? Lengths::equal : Lengths::free);
}

/// Whether every tensor, and a state for each of `states` sequences, has a number of elements that can be.
/// Sizes are computed from extents that this accepts.
inline CallStatus validate_element_counts(const Shape& s, bool packed, std::int64_t states) {
  const std::int64_t batch = packed ? 1 : s.batch;
  struct Array {
    const char* name;
    std::array<std::int64_t, 4> extents;
  };
  for (const Array& x :
       {Array{"q", {batch, s.seq_q, s.heads_q, s.dim_qk}}, Array{"k", {batch, s.seq_k, s.heads_kv, s.dim_qk}},
        Array{"v", {batch, s.seq_k, s.heads_kv, s.dim_v}}, Array{"o", {batch, s.seq_q, s.heads_q, s.dim_v}},
        Array{"a state", {states, s.heads_kv, s.dim_qk, s.dim_v}}}) {
    std::int64_t elements = 0;
    if (CallStatus status = count_elements(x.name, x.extents, elements); !status) return status;
  }
  return {};
}

/// The extents of a call, which is what its workspace follows from.
template <AnyProblem P, class Arguments>
CallStatus validate_extents(const Arguments& args) {
  if (CallStatus status = validate_shape<P>(args.shape); !status) return status;
  if constexpr (requires { args.checkpoint_slot; })
    if (CallStatus s = validate_checkpoints<P>(args); !s) return s;
  if constexpr (requires { args.pool; })
    return validate_element_counts(args.shape, false, args.pool_slots);
  else
    return validate_element_counts(args.shape, args.cu_seqlens_q.given(), states_of(args));
}

/// What the arguments of forward and backward have in common besides their tensors.
template <class Arguments>
CallStatus validate_options(const Arguments& args) {
  if (args.cu_seqlens_q.given() != args.cu_seqlens_k.given())
    return CallStatus::failure(StatusCode::null_pointer, "%s = null: must be given together with %s",
                               args.cu_seqlens_q.given() ? "cu_seqlens_k" : "cu_seqlens_q",
                               args.cu_seqlens_q.given() ? "cu_seqlens_q" : "cu_seqlens_k");
  const bool h = args.initial_state.h != nullptr;
  const bool count = args.initial_state.count != nullptr;
  if (args.shape.batch > 0 && args.shape.heads_kv > 0 && h != count)
    return CallStatus::failure(StatusCode::null_pointer,
                               "initial_state.%s = null: must be given together with initial_state.%s",
                               h ? "count" : "h", h ? "h" : "count");
  if (args.plan != Plan::automatic && args.plan != Plan::batch_invariant)
    return CallStatus::failure(StatusCode::bad_option,
                               "plan = %d: must be Plan::automatic or Plan::batch_invariant",
                               static_cast<int>(args.plan));
  return {};
}

/// m is required where it weighs anything.
template <AnyProblem P, class Arguments>
CallStatus validate_scale(const Arguments& args, Need need) {
  if (P::scale == Scale::none || args.scale_logit.given() || need == Need::optional) return {};
  const Shape& s = args.shape;
  const bool weighs = s.batch > 0 && (P::scale == Scale::by_key ? s.seq_k > 0 && s.heads_kv > 0
                                                                : s.seq_q > 0 && s.heads_q > 0);
  if (!weighs) return {};
  return CallStatus::failure(StatusCode::null_pointer,
                             "scale_logit = null: must point to %lld elements, m of each key head. Remedy: "
                             "give it, or write Scale::none in the Problem for w = 1",
                             number(s.heads_kv));
}

/// The inputs that forward and backward have in common.
template <AnyProblem P, class Arguments>
void add_inputs(Operands& operands, const Arguments& args, Need need) {
  const Shape& s = args.shape;
  const bool packed = args.cu_seqlens_q.given();
  const std::int64_t rows = packed ? 1 : s.batch;
  operands.tensor("q", args.q, need, packed, {s.batch, s.seq_q, s.heads_q, s.dim_qk});
  operands.tensor("k", args.k, need, packed, {s.batch, s.seq_k, s.heads_kv, s.dim_qk});
  operands.tensor("v", args.v, need, packed, {s.batch, s.seq_k, s.heads_kv, s.dim_v});
  if (P::scale != Scale::none) operands.scale_logit("scale_logit", args.scale_logit, s.heads_kv);
  operands.array("query_mask", args.query_mask, Need::optional, {1, 1, rows, s.seq_q});
  operands.array("key_mask", args.key_mask, Need::optional, {1, 1, rows, s.seq_k});
  if (packed) {
    operands.offsets("cu_seqlens_q", args.cu_seqlens_q, s.batch);
    operands.offsets("cu_seqlens_k", args.cu_seqlens_k, s.batch);
  }
}

inline CallStatus validate_offsets(const char* name, const Offsets& offsets, std::int64_t batch,
                                   const char* length_name, std::int64_t length) {
  if (offsets[0] != 0)
    return CallStatus::failure(StatusCode::bad_offsets, "%s[0] = %lld: must be 0", name, number(offsets[0]));
  for (std::int64_t b = 1; b <= batch; ++b)
    if (offsets[b] < offsets[b - 1])
      return CallStatus::failure(StatusCode::bad_offsets,
                                 "%s[%lld] = %lld: must not be below %s[%lld] = %lld", name, number(b),
                                 number(offsets[b]), name, number(b - 1), number(offsets[b - 1]));
  if (offsets[batch] > length)
    return CallStatus::failure(StatusCode::bad_offsets, "%s[%lld] = %lld: must not be above shape.%s = %lld",
                               name, number(batch), number(offsets[batch]), length_name, number(length));
  return {};
}

/// Room for as many tokens again as anyone could add.
inline constexpr std::int64_t largest_count = std::int64_t{1} << 62;

inline CallStatus validate_count(const char* name, std::int64_t i, std::int64_t count) {
  if (count < 0)
    return CallStatus::failure(StatusCode::bad_option, "%s[%lld] = %lld: must not be negative", name,
                               number(i), number(count));
  if (count > largest_count)
    return CallStatus::failure(StatusCode::bad_option, "%s[%lld] = %lld: must be at most 2^62", name,
                               number(i), number(count));
  return {};
}

template <Mask mask, class Arguments>
CallStatus validate_offsets(const Arguments& args) {
  const std::int64_t batch = args.shape.batch;
  if (args.cu_seqlens_q.given()) {
    if (CallStatus s = validate_offsets("cu_seqlens_q", args.cu_seqlens_q, batch, "seq_q", args.shape.seq_q);
        !s)
      return s;
    if (CallStatus s = validate_offsets("cu_seqlens_k", args.cu_seqlens_k, batch, "seq_k", args.shape.seq_k);
        !s)
      return s;
    if constexpr (mask == Mask::causal)
      for (std::int64_t b = 1; b <= batch; ++b)
        if (args.cu_seqlens_k[b] != args.cu_seqlens_q[b])
          return CallStatus::failure(
              StatusCode::bad_offsets,
              "cu_seqlens_k[%lld] = %lld: must equal cu_seqlens_q[%lld] = %lld when causal", number(b),
              number(args.cu_seqlens_k[b]), number(b), number(args.cu_seqlens_q[b]));
  }
  return {};
}

/// Counts of initial states are not negative.
template <class Arguments>
CallStatus validate_counts(const Arguments& args) {
  for (std::int64_t b = 0; args.initial_state.count != nullptr && b < args.shape.batch; ++b) {
    std::int64_t place = b;
    if constexpr (requires { args.read_slot; }) place = slot_of(args.read_slot, b);
    if (place < 0) continue;
    if (CallStatus status = validate_count("initial_state.count", place, args.initial_state.count[place]);
        !status)
      return status;
  }
  return {};
}

/// Whether a call wants any gradient. Its inputs are required then.
template <Element T>
bool wants_any(const BackwardArguments<T>& args) {
  return args.dq.data != nullptr || args.dk.data != nullptr || args.dv.data != nullptr ||
         args.dscale_logit != nullptr || args.dinitial_state != nullptr;
}
template <Element T>
Need need_of_inputs(const BackwardArguments<T>& args) {
  return wants_any(args) ? Need::required : Need::optional;
}

/// All arrays of `forward`.
template <AnyProblem P>
Operands operands_of(const ForwardArguments<typename P::element>& args) {
  const Shape& s = args.shape;
  const std::int64_t states = states_of(args);
  const std::array<std::int64_t, 4> h_extents{states, s.heads_kv, s.dim_qk, s.dim_v};
  Operands operands;
  add_inputs<P>(operands, args, Need::required);
  operands.tensor("o", args.o, Need::required, args.cu_seqlens_q.given(),
                  {s.batch, s.seq_q, s.heads_q, s.dim_v});
  operands.array("final_state.h", args.final_state.h, Need::optional, h_extents);
  operands.array("final_state.count", args.final_state.count, states);
  // A final state written in the very place of the initial one is one array, listed once.
  if (args.initial_state.h != args.final_state.h)
    operands.array("initial_state.h", args.initial_state.h, Need::optional, h_extents);
  if (args.initial_state.count != args.final_state.count)
    operands.array("initial_state.count", args.initial_state.count, states);
  operands.array("read_slot", args.read_slot, s.batch);
  operands.array("write_slot", args.write_slot, s.batch);
  operands.array("checkpoint_slot", args.checkpoint_slot, Need::optional,
                 {1, 1, s.batch, args.max_checkpoints});
  return operands;
}
/// All arrays of `backward`.
template <AnyProblem P>
Operands operands_of(const BackwardArguments<typename P::element>& args) {
  const Shape& s = args.shape;
  const bool packed = args.cu_seqlens_q.given();
  const std::array<std::int64_t, 4> h_extents{s.batch, s.heads_kv, s.dim_qk, s.dim_v};
  const Need need = need_of_inputs(args);
  Operands operands;
  add_inputs<P>(operands, args, need);
  operands.tensor("dout", args.dout, need, packed, {s.batch, s.seq_q, s.heads_q, s.dim_v});
  operands.tensor("dq", args.dq, Need::optional, packed, {s.batch, s.seq_q, s.heads_q, s.dim_qk});
  operands.tensor("dk", args.dk, Need::optional, packed, {s.batch, s.seq_k, s.heads_kv, s.dim_qk});
  operands.tensor("dv", args.dv, Need::optional, packed, {s.batch, s.seq_k, s.heads_kv, s.dim_v});
  operands.array("dscale_logit", args.dscale_logit, s.heads_kv);
  operands.array("initial_state.h", args.initial_state.h, Need::optional, h_extents);
  operands.array("initial_state.count", args.initial_state.count, s.batch);
  operands.array("final_h", args.final_h, Need::optional, h_extents);
  operands.array("dfinal_state", args.dfinal_state, Need::optional, h_extents);
  operands.array("dinitial_state", args.dinitial_state, Need::optional, h_extents);
  return operands;
}

}  // namespace detail

/// Checks the arguments of `forward` by everything but the contents of arrays. Pointers of empty tensors may
/// be null.
template <AnyProblem P>
CallStatus validate(const ForwardArguments<typename P::element>& args) {
  using namespace detail;
  if (CallStatus s = validate_shape<P>(args.shape); !s) return s;
  if (CallStatus s = validate_options(args); !s) return s;
  if (CallStatus s = validate_checkpoints<P>(args); !s) return s;
  if (CallStatus s = validate_pools(args); !s) return s;
  if (CallStatus status = operands_of<P>(args).refusal(); !status) return status;
  return validate_scale<P>(args, Need::required);
}

/// Checks the arguments of `backward` likewise. Inputs are required once any output is wanted.
template <AnyProblem P>
CallStatus validate(const BackwardArguments<typename P::element>& args) {
  using namespace detail;
  if (CallStatus s = validate_shape<P>(args.shape); !s) return s;
  if (CallStatus s = validate_options(args); !s) return s;
  if (CallStatus status = operands_of<P>(args).refusal(); !status) return status;
  return validate_scale<P>(args, need_of_inputs(args));
}

/// Checks the arguments of `step` likewise.
template <AnyProblem P>
CallStatus validate(const StepArguments<typename P::element>& args) {
  using namespace detail;
  static_assert(
      P::mask == Mask::causal,
      "cottention: step needs a causal Problem, because a token that sees later ones has no recurrence. "
      "Remedy: write Mask::causal, or call forward with an initial_state.");
  if (CallStatus s = validate_shape<P>(args.shape); !s) return s;
  const Shape& s = args.shape;
  if (CallStatus status = validate_pool(args.pool_slots, s.batch, "slot", args.slot); !status) return status;
  const Need needed_for_o = args.o.data != nullptr ? Need::required : Need::optional;
  const Need needed_for_pool = s.batch > 0 && s.seq_k > 0 && s.heads_kv > 0 ? Need::required : Need::optional;
  Operands operands;
  operands.tensor("q", args.q, needed_for_o, false, {s.batch, s.seq_q, s.heads_q, s.dim_qk});
  operands.tensor("k", args.k, Need::required, false, {s.batch, s.seq_k, s.heads_kv, s.dim_qk});
  operands.tensor("v", args.v, Need::required, false, {s.batch, s.seq_k, s.heads_kv, s.dim_v});
  operands.tensor("o", args.o, Need::optional, false, {s.batch, s.seq_q, s.heads_q, s.dim_v});
  if (P::scale != Scale::none) operands.scale_logit("scale_logit", args.scale_logit, s.heads_kv);
  operands.array("pool.h", args.pool.h, needed_for_pool, {args.pool_slots, s.heads_kv, s.dim_qk, s.dim_v});
  operands.array("pool.count", args.pool.count, needed_for_pool, {1, 1, 1, args.pool_slots});
  operands.array("slot", args.slot, s.batch);
  operands.array("accepted", args.accepted, s.batch);
  if (CallStatus status = operands.refusal(); !status) return status;
  return validate_scale<P>(args, P::scale == Scale::by_query ? needed_for_o : Need::required);
}

/// Checks the contents of the index arrays: cu_seqlens ascends from 0 and stays within the token axis, the
/// same for queries and keys when causal; slots lie in the pool, and none is written for one sequence that
/// another writes or reads; counts are not negative. Needs arguments that `validate` accepts. `scratch`:
/// an entry to write to for each place in write_slot and checkpoint_slot, by which calls with many slots take
/// less time; null: none.
template <AnyProblem P>
CallStatus validate_contents(const ForwardArguments<typename P::element>& args,
                             std::int32_t* scratch = nullptr) {
  if (CallStatus status = detail::validate_offsets<P::mask>(args); !status) return status;
  if (detail::has_pool(args))
    if (CallStatus status = detail::validate_slots(args, scratch); !status) return status;
  return detail::validate_counts(args);
}
template <AnyProblem P>
CallStatus validate_contents(const BackwardArguments<typename P::element>& args) {
  if (CallStatus status = detail::validate_offsets<P::mask>(args); !status) return status;
  return detail::validate_counts(args);
}

/// Likewise for step: slots lie in the pool and serve one lane each, `accepted` lies within 0 to T, counts of
/// the states in use are not negative. What belongs to idle lanes is not looked at. `scratch`: `batch`
/// entries to write to; unused where slot is null.
template <AnyProblem P>
CallStatus validate_contents(const StepArguments<typename P::element>& args, std::int32_t* scratch) {
  using detail::number;
  for (std::int64_t b = 0; b < args.shape.batch; ++b) {
    const std::int64_t slot = detail::slot_of(args.slot, b);
    if (slot < 0) continue;
    if (slot >= args.pool_slots)
      return CallStatus::failure(StatusCode::bad_slot, "slot[%lld] = %lld: must be below pool_slots = %lld",
                                 number(b), number(slot), number(args.pool_slots));
    if (args.accepted != nullptr && (args.accepted[b] < 0 || args.accepted[b] > args.shape.seq_k))
      return CallStatus::failure(StatusCode::bad_option,
                                 "accepted[%lld] = %d: must be at least 0 and at most shape.seq_k = %lld",
                                 number(b), args.accepted[b], number(args.shape.seq_k));
    if (args.pool.count != nullptr)
      if (CallStatus status = detail::validate_count("pool.count", slot, args.pool.count[slot]); !status)
        return status;
  }
  if (args.slot == nullptr || args.shape.batch == 0) return {};
  const detail::StepSlots all{args.slot, args.shape.batch};
  return detail::WrittenSlots<detail::StepSlots>(all, scratch).validate_distinct();
}

/// Checks scratch memory against what `workspace_bytes` asked for. `threads`: those that it was to be sized
/// for, where it follows from them; otherwise 0.
inline CallStatus validate(const Workspace& workspace, std::size_t needed, int threads = 0) {
  if (needed == 0) return {};
  if (workspace.data == nullptr)
    return CallStatus::failure(StatusCode::bad_workspace, "workspace.data = null: must point to %zu bytes",
                               needed);
  if (workspace.bytes < needed && threads > 0)
    return CallStatus::failure(
        StatusCode::bad_workspace,
        "workspace.bytes = %zu: must be at least %zu for the %d threads of this call's "
        "execution; was it sized for fewer?",
        workspace.bytes, needed, threads);
  if (workspace.bytes < needed)
    return CallStatus::failure(StatusCode::bad_workspace, "workspace.bytes = %zu: must be at least %zu",
                               workspace.bytes, needed);
  if (reinterpret_cast<std::uintptr_t>(workspace.data) % workspace_alignment != 0)
    return CallStatus::failure(StatusCode::bad_workspace, "workspace.data = %p: must be aligned to %zu bytes",
                               workspace.data, workspace_alignment);
  return {};
}

}  // namespace cottention
