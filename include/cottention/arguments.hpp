// The arguments of forward, backward and step, shared by every backend. Plain structs, filled with designated
// initialisers; docs/math.md has the equations, validation.hpp the rules that are checked.
#pragma once

#include <cottention/requirements.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>

#include <cottention/problem.hpp>
#include <cottention/tensor.hpp>

namespace cottention {

/// Extents, in elements. Give them by name, `{.batch = 2, .seq_q = 500, ...}`: seven numbers in a row are
/// easily mixed up. Those left out are 0.
struct Shape {
  std::int64_t batch = 0;     ///< sequences; in packed batches, the number of sequences packed
  std::int64_t seq_q = 0;     ///< positions of q and o; in packed batches, the length of their token axis
  std::int64_t seq_k = 0;     ///< positions of k and v, likewise; equal to seq_q when causal
  std::int64_t heads_q = 0;   ///< heads of q and o; a multiple of heads_kv. Head h reads k and v head
                              ///< h / (heads_q / heads_kv)
  std::int64_t heads_kv = 0;  ///< heads of k and v
  std::int64_t dim_qk = 0;    ///< row length of q and k
  std::int64_t dim_v = 0;     ///< row length of v and o
};

/// Start of each packed sequence on the token axis, [batch + 1], int32 or int64: ascending from 0 to at most
/// the length of the axis. Sequence b is [offsets[b], offsets[b + 1]) and may be empty. Tokens from
/// offsets[batch] on belong to no sequence: they are never read, and their outputs and gradients become 0, as
/// those of masked positions do. Null: the batch is not packed.
class Offsets {
 public:
  constexpr Offsets() = default;
  constexpr Offsets(std::nullptr_t) {}
  constexpr Offsets(const std::int32_t* offsets) : int32_(offsets) {}
  constexpr Offsets(const std::int64_t* offsets) : int64_(offsets) {}

  constexpr bool given() const { return int32_ != nullptr || int64_ != nullptr; }
  /// The pointer that was given, where it was one to that type; otherwise null.
  constexpr const std::int32_t* int32() const { return int32_; }
  constexpr const std::int64_t* int64() const { return int64_; }
  /// The offsets must be in memory that the caller can read.
  constexpr std::int64_t operator[](std::int64_t i) const {
    return int32_ != nullptr ? int32_[i] : int64_[i];
  }

 private:
  const std::int32_t* int32_ = nullptr;
  const std::int64_t* int64_ = nullptr;
};

/// The recurrent state: h = sum over absorbed tokens of norm(k) (w v)^T, where w is 1 unless scaling is by
/// key, and how many tokens that was.
template <class A, class Count>
struct BasicState {
  A* h = nullptr;          ///< [batch, heads_kv, dim_qk, dim_v], contiguous
  Count* count = nullptr;  ///< [batch], unmasked tokens absorbed
};
template <class A>
using State = BasicState<A, std::int64_t>;
template <class A>
using ConstState = BasicState<const A, const std::int64_t>;

/// The learned scalar m of each key head, [heads_kv]: float; for fp64 elements double, or float as models
/// keep it.
template <class A>
struct ScaleLogit {
  const A* data = nullptr;
  const float* narrow = nullptr;  ///< in place of `data`, where A is double

  constexpr ScaleLogit() = default;
  constexpr ScaleLogit(std::nullptr_t) requires(
      !std::same_as<A, float>)  // of two kinds of pointers to choose from
  {}
  constexpr ScaleLogit(const A* m) : data(m) {}
  constexpr ScaleLogit(const float* m) requires(!std::same_as<A, float>) : narrow(m) {}

  constexpr bool given() const { return data != nullptr || narrow != nullptr; }
  /// m must be in memory that the caller can read.
  constexpr A operator[](std::int64_t head) const {
    return narrow != nullptr ? static_cast<A>(narrow[head]) : data[head];
  }
};

/// How the work may be cut up: a part of the arguments on every backend, since it says what the bits of a
/// result may depend on. How finely a GPU then cuts a sequence up is its Split.
enum class Plan {
  automatic,        ///< may follow batch size and head count; equal calls give equal bits
  batch_invariant,  ///< follows sequence length and head dims alone: a sequence's bits depend neither on what
                    ///< else is in the batch nor on the number of threads
};

/// Pieces that a GPU cuts a sequence into where heads are few: beside the arguments of a CUDA call, since it
/// changes the speed and only by the order of sums the last bits, under either Plan. 0: the library's choice,
/// as the Plan allows; 1: none; up to 64 otherwise. Never more than one for each 256 tokens; in fp32 at least
/// so many that none has over 512 chunks, as far as 64 suffice (docs/tuning.md, "Long sequences").
struct Split {
  int pieces = 0;
};

/// Checkpoints are a multiple of so many tokens apart. Every chunk of the library's divides it.
inline constexpr std::int64_t checkpoint_chunk = 128;

/// Arguments of `forward`. Shapes in brackets; masks hold one byte per position, nonzero where a token is
/// present, contiguous, and null where all are.
template <Element T>
struct ForwardArguments {
  Shape shape{};
  Tensor<const T> q{};  ///< [batch, seq_q, heads_q, dim_qk]
  Tensor<const T> k{};  ///< [batch, seq_k, heads_kv, dim_qk]
  Tensor<const T> v{};  ///< [batch, seq_k, heads_kv, dim_v]
  Tensor<T> o{};        ///< [batch, seq_q, heads_q, dim_v], written. A masked query's row
                        ///< becomes 0
  /// [heads_kv], m: required where it weighs anything, that is, where v has elements (Scale::by_key) or o has
  /// (by_query). Scale::none neither reads nor checks it.
  ScaleLogit<Accumulate<T>> scale_logit{};
  const std::uint8_t* query_mask = nullptr;   ///< [batch, seq_q]
  const std::uint8_t* key_mask = nullptr;     ///< [batch, seq_k]; counts n count unmasked keys
  Offsets cu_seqlens_q{};                     ///< [batch + 1]; given together with cu_seqlens_k
  Offsets cu_seqlens_k{};                     ///< [batch + 1]; equal to cu_seqlens_q when causal
  ConstState<Accumulate<T>> initial_state{};  ///< null: zero. h and count are given together
  State<Accumulate<T>> final_state{};  ///< null: not wanted; h and count each optional. May be the very
                                       ///< memory of initial_state
  std::int64_t pool_slots = 0;  ///< where read_slot or write_slot is given, the states that initial_state and
                                ///< final_state have each; otherwise they have one for each sequence
  const std::int32_t* read_slot = nullptr;   ///< [batch], of initial_state; negative: zero. Several sequences
                                             ///< may read one. Null: sequence b has slot b
  const std::int32_t* write_slot = nullptr;  ///< [batch], of final_state, each slot at most once, and where
                                             ///< that is initial_state, read by no other sequence;
                                             ///< negative: not wanted. Null: sequence b has slot b
  /// Tokens from one checkpoint of a sequence to the next, a multiple of `checkpoint_chunk`, causal, on CPUs;
  /// 0: none. Sums begin anew at each: with one interval, a sequence has the same bits whether it comes whole
  /// or in calls of whole intervals (but for the last), each from the state that the one before left or from
  /// a checkpoint.
  std::int64_t checkpoint_interval = 0;
  std::int64_t max_checkpoints = 0;  ///< of a sequence, that checkpoint_slot has places for
  /// [batch, max_checkpoints], of final_state: the state of sequence b after (i + 1) checkpoint_interval
  /// tokens goes to slot [b, i], under the rules of write_slot; places beyond its length are not read. Null:
  /// none is kept.
  const std::int32_t* checkpoint_slot = nullptr;
  Plan plan = Plan::automatic;
};

/// Arguments of `backward`: the gradients of a loss L whose gradient with respect to o is `dout` and with
/// respect to the final state is `dfinal_state`. Outputs left null are not computed. Masked positions get
/// exactly 0.
template <Element T>
struct BackwardArguments {
  Shape shape{};
  Tensor<const T> q{};  ///< as in the forward call
  Tensor<const T> k{};
  Tensor<const T> v{};
  Tensor<const T> dout{};                    ///< [batch, seq_q, heads_q, dim_v]
  Tensor<T> dq{};                            ///< [batch, seq_q, heads_q, dim_qk]
  Tensor<T> dk{};                            ///< [batch, seq_k, heads_kv, dim_qk]
  Tensor<T> dv{};                            ///< [batch, seq_k, heads_kv, dim_v]
  ScaleLogit<Accumulate<T>> scale_logit{};   ///< [heads_kv], as in the forward call
  Accumulate<T>* dscale_logit = nullptr;     ///< [heads_kv], dL/dm summed over the batch; 0 for Scale::none
  const std::uint8_t* query_mask = nullptr;  ///< [batch, seq_q]
  const std::uint8_t* key_mask = nullptr;    ///< [batch, seq_k]
  Offsets cu_seqlens_q{};
  Offsets cu_seqlens_k{};
  ConstState<Accumulate<T>> initial_state{};  ///< as in the forward call
  const Accumulate<T>* final_h = nullptr;  ///< [batch, heads_kv, dim_qk, dim_v], final_state.h of the forward
                                           ///< call; null: not kept. Spares a CUDA call that makes all
                                           ///< gradients together a pass over k and v: 16-bit elements,
                                           ///< dim_qk = dim_v <= 128, as docs/tuning.md has it, where it must
                                           ///< be of the same k, v, masks and initial_state. Others ignore it
  const Accumulate<T>* dfinal_state = nullptr;  ///< [batch, heads_kv, dim_qk, dim_v]; null: zero
  Accumulate<T>* dinitial_state = nullptr;      ///< [batch, heads_kv, dim_qk, dim_v]
  Plan plan = Plan::automatic;
};

/// Arguments of `step`: T = seq_q = seq_k new tokens for each of `batch` lanes, whose states live in a pool.
///
/// Speculative decoding: call with `accepted` all 0 to get the outputs of T draft tokens and leave the states
/// as they were; once a of them are accepted, call again with `accepted` = a and `o` null to absorb those.
template <Element T>
struct StepArguments {
  Shape shape{};
  Tensor<const T> q{};                      ///< [batch, T, heads_q, dim_qk]; may be null when o is
  Tensor<const T> k{};                      ///< [batch, T, heads_kv, dim_qk]
  Tensor<const T> v{};                      ///< [batch, T, heads_kv, dim_v]
  Tensor<T> o{};                            ///< [batch, T, heads_q, dim_v]; null: only the states advance
  ScaleLogit<Accumulate<T>> scale_logit{};  ///< [heads_kv], as in ForwardArguments
  State<Accumulate<T>> pool{};         ///< [slots, heads_kv, dim_qk, dim_v] and [slots], updated in place
  std::int64_t pool_slots = 0;         ///< states in the pool
  const std::int32_t* slot = nullptr;  ///< [batch], each slot at most once; negative: an idle lane, for which
                                       ///< nothing is read or written. Null: lane b has slot b
  const std::int32_t* accepted = nullptr;  ///< [batch], 0 to T: how many of the T tokens the state absorbs.
                                           ///< Null: all. Outputs are those of all T tokens either way
};

/// Scratch memory from the caller, aligned to `workspace_alignment`, or on a device to 256 bytes, that
/// nothing else of the call is in. Contents before and after do not matter.
struct Workspace {
  void* data = nullptr;
  std::size_t bytes = 0;
};
inline constexpr std::size_t workspace_alignment = 64;

}  // namespace cottention
