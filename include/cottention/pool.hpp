// Pools of states: where sequences have theirs, and the rules that slots obey.
#pragma once

#include <cottention/requirements.hpp>

#include <cottention/host_only.hpp>

#include <algorithm>
#include <cstdint>

#include <cottention/arguments.hpp>
#include <cottention/overlap.hpp>

namespace cottention::detail {

/// Where sequence b has its state in a pool; negative: nowhere.
constexpr std::int64_t slot_of(const std::int32_t* places, std::int64_t b) {
  return places == nullptr ? b : places[b];
}

/// Whether states of a forward call are in pools.
template <class Arguments>
bool has_pool(const Arguments& args) {
  return args.read_slot != nullptr || args.write_slot != nullptr || args.checkpoint_slot != nullptr;
}
/// The states in each array of them that a call over whole sequences has.
template <class Arguments>
std::int64_t states_of(const Arguments& args) {
  if constexpr (requires { args.read_slot; })
    if (has_pool(args)) return args.pool_slots;
  return args.shape.batch;
}

/// A pool has a slot for each sequence, or lane, that has no other.
inline CallStatus validate_pool(std::int64_t pool_slots, std::int64_t batch, const char* name,
                                const std::int32_t* places) {
  if (pool_slots < 0)
    return CallStatus::failure(StatusCode::bad_shape, "pool_slots = %lld: must be at least 0",
                               number(pool_slots));
  if (places == nullptr && batch > pool_slots)
    return CallStatus::failure(StatusCode::bad_slot,
                               "pool_slots = %lld: must be at least shape.batch = %lld when %s is null",
                               number(pool_slots), number(batch), name);
  return {};
}
/// The same of the pools of a forward call, of which one may not be given.
template <class Arguments>
CallStatus validate_pools(const Arguments& args) {
  if (!has_pool(args)) return {};
  const auto& initial = args.initial_state;
  const auto& final = args.final_state;
  const bool reads = initial.h != nullptr || initial.count != nullptr,
             writes = final.h != nullptr || final.count != nullptr;
  if (CallStatus s =
          validate_pool(args.pool_slots, reads ? args.shape.batch : 0, "read_slot", args.read_slot);
      !s)
    return s;
  return validate_pool(args.pool_slots, writes ? args.shape.batch : 0, "write_slot", args.write_slot);
}

/// The rules on checkpoints, but for what their slots are.
template <AnyProblem P, class Arguments>
CallStatus validate_checkpoints(const Arguments& args) {
  const std::int64_t interval = args.checkpoint_interval;
  if (interval < 0 || interval % checkpoint_chunk != 0)
    return CallStatus::failure(
        StatusCode::bad_option,
        "checkpoint_interval = %lld: must be a multiple of checkpoint_chunk = %lld, or 0", number(interval),
        number(checkpoint_chunk));
  if (interval > 0 && P::mask != Mask::causal)
    return CallStatus::failure(StatusCode::bad_option, "checkpoint_interval = %lld: must be 0 unless causal",
                               number(interval));
  if (args.max_checkpoints < 0)
    return CallStatus::failure(StatusCode::bad_shape, "max_checkpoints = %lld: must be at least 0",
                               number(args.max_checkpoints));
  if (interval == 0 && args.checkpoint_slot != nullptr)
    return CallStatus::failure(StatusCode::bad_option,
                               "checkpoint_slot = %p: must be null where checkpoint_interval is 0",
                               static_cast<const void*>(args.checkpoint_slot));
  return {};
}

/// Slots of [batch] sequences lie in the pool.
inline CallStatus validate_slots(const char* name, const std::int32_t* places, std::int64_t batch,
                                 std::int64_t pool_slots) {
  for (std::int64_t b = 0; places != nullptr && b < batch; ++b)
    if (places[b] >= pool_slots)
      return CallStatus::failure(StatusCode::bad_slot, "%s[%lld] = %d: must be below pool_slots = %lld", name,
                                 number(b), places[b], number(pool_slots));
  return {};
}

/// Slots that a call writes: of an array of them, which may be null.
struct SlotArray {
  const char* name;
  const std::int32_t* places;
  std::int64_t count;
};

/// The slots that a call writes, in the caller's order and, in `scratch`, in theirs. `List`: `int64 count()`,
/// `int64 slot(i)`, negative for none, and `SlotArray name(i)`, whose `count` is the place in the array.
template <class List>
class WrittenSlots {
 public:
  /// `scratch` has room for one entry each; null: look-ups take longer.
  WrittenSlots(const List& list, std::int32_t* scratch)
      : list_(list), sorted_(scratch), sorted_end_(scratch) {
    if (scratch == nullptr) return;
    for (std::int64_t i = 0; i < list.count(); ++i)
      if (list.slot(i) >= 0) *sorted_end_++ = static_cast<std::int32_t>(list.slot(i));
    std::sort(sorted_, sorted_end_);
  }

  /// No slot may be written twice.
  CallStatus validate_distinct() const {
    const std::int64_t first = first_of_two();
    if (first == list_.count()) return {};
    const std::int64_t second = find(first + 1, list_.slot(first));
    const SlotArray at = list_.name(second), before = list_.name(first);
    return CallStatus::failure(
        StatusCode::bad_slot, "%s[%lld] = %lld: must not be used twice, and is by %s[%lld]", at.name,
        number(at.count), number(list_.slot(first)), before.name, number(before.count));
  }
  /// The first place of a slot in the list; its count: none.
  std::int64_t find(std::int64_t slot) const {
    if (sorted_ != nullptr && !std::binary_search(sorted_, sorted_end_, slot)) return list_.count();
    return find(0, slot);
  }

 private:
  std::int64_t find(std::int64_t from, std::int64_t slot) const {
    while (from < list_.count() && list_.slot(from) != slot) ++from;
    return from;
  }
  std::int64_t first_of_two() const {
    if (sorted_ != nullptr) {
      const std::int32_t* twice = std::adjacent_find(sorted_, sorted_end_);
      return twice == sorted_end_ ? list_.count() : find(0, *twice);
    }
    std::int64_t i = 0;
    while (i < list_.count() && (list_.slot(i) < 0 || find(i + 1, list_.slot(i)) == list_.count())) ++i;
    return i;
  }

  const List& list_;
  std::int32_t *sorted_, *sorted_end_;
};

/// Those of a call of `step`.
struct StepSlots {
  const std::int32_t* places;
  std::int64_t batch;

  std::int64_t count() const { return batch; }
  std::int64_t slot(std::int64_t i) const { return places[i]; }
  SlotArray name(std::int64_t i) const { return {"slot", places, i}; }
};
/// Those of a call of `forward`: of final states, then of the checkpoints that there are.
template <class Arguments>
struct ForwardSlots {
  const Arguments& args;

  std::int64_t count() const { return args.shape.batch * (1 + columns()); }
  std::int64_t sequence(std::int64_t i) const {
    return i < args.shape.batch ? i : (i - args.shape.batch) / columns();
  }
  std::int64_t slot(std::int64_t i) const {
    if (i < args.shape.batch) return slot_of(args.write_slot, i);
    const std::int64_t at = i - args.shape.batch;
    return at % columns() < length(at / columns()) / args.checkpoint_interval ? args.checkpoint_slot[at] : -1;
  }
  SlotArray name(std::int64_t i) const {
    if (i < args.shape.batch) return {"write_slot", args.write_slot, i};
    return {"checkpoint_slot", args.checkpoint_slot, i - args.shape.batch};
  }

 private:
  std::int64_t columns() const { return args.checkpoint_slot == nullptr ? 0 : args.max_checkpoints; }
  std::int64_t length(std::int64_t b) const {
    return args.cu_seqlens_k.given() ? args.cu_seqlens_k[b + 1] - args.cu_seqlens_k[b] : args.shape.seq_k;
  }
};

/// The slots of a forward call lie in the pool, and no state that it writes goes where another sequence, or
/// the same, has one of its own; but a sequence may write what it reads. `scratch`: as in WrittenSlots.
template <class Arguments>
CallStatus validate_slots(const Arguments& args, std::int32_t* scratch) {
  const std::int64_t batch = args.shape.batch;
  const auto& initial = args.initial_state;
  const auto& final = args.final_state;
  const bool reads = initial.h != nullptr, writes = final.h != nullptr || final.count != nullptr;
  if (reads)
    if (CallStatus s = validate_slots("read_slot", args.read_slot, batch, args.pool_slots); !s) return s;
  if (!writes) return {};
  const ForwardSlots<Arguments> list{args};
  for (std::int64_t i = 0; i < list.count(); ++i)
    if (list.slot(i) >= args.pool_slots)
      return CallStatus::failure(StatusCode::bad_slot, "%s[%lld] = %lld: must be below pool_slots = %lld",
                                 list.name(i).name, number(list.name(i).count), number(list.slot(i)),
                                 number(args.pool_slots));
  const WrittenSlots<ForwardSlots<Arguments>> written(list, scratch);
  if (CallStatus s = written.validate_distinct(); !s) return s;
  if (!reads || (initial.h != final.h && initial.count != final.count)) return {};
  for (std::int64_t b = 0; b < batch; ++b) {
    const std::int64_t slot = slot_of(args.read_slot, b);
    const std::int64_t at = slot < 0 ? list.count() : written.find(slot);
    if (at == list.count() || list.sequence(at) == b) continue;
    if (list.name(at).places == nullptr)
      return CallStatus::failure(
          StatusCode::bad_slot, "read_slot[%lld] = %lld: must not be where sequence %lld has its final state",
          number(b), number(slot), number(at));
    return CallStatus::failure(StatusCode::bad_slot, "%s[%lld] = %lld: must not be what sequence %lld reads",
                               list.name(at).name, number(list.name(at).count), number(slot), number(b));
  }
  return {};
}

}  // namespace cottention::detail
