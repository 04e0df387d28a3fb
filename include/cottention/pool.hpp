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
constexpr std::int64_t slot_of(const std::int32_t* slots, std::int64_t b) {
  return slots == nullptr ? b : slots[b];
}

/// The states in each array of them that a call over whole sequences has.
template <class Arguments>
std::int64_t states_of(const Arguments& args) {
  if constexpr (requires { args.read_slot; })
    if (args.read_slot != nullptr || args.write_slot != nullptr) return args.pool_slots;
  return args.shape.batch;
}

/// A pool has a slot for each sequence, or lane, that has no other.
inline CallStatus validate_pool(std::int64_t pool_slots, std::int64_t batch, const char* name,
                                const std::int32_t* slots) {
  if (pool_slots < 0)
    return CallStatus::failure(StatusCode::bad_shape, "pool_slots = %lld: must be at least 0",
                               number(pool_slots));
  if (slots == nullptr && batch > pool_slots)
    return CallStatus::failure(StatusCode::bad_slot,
                               "pool_slots = %lld: must be at least shape.batch = %lld when %s is null",
                               number(pool_slots), number(batch), name);
  return {};
}
/// The same of the pools of a forward call, of which one may not be given.
template <class Arguments>
CallStatus validate_pools(const Arguments& args) {
  if (args.read_slot == nullptr && args.write_slot == nullptr) return {};
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

/// Slots of [batch] sequences lie in the pool.
inline CallStatus validate_slots(const char* name, const std::int32_t* slots, std::int64_t batch,
                                 std::int64_t pool_slots) {
  for (std::int64_t b = 0; slots != nullptr && b < batch; ++b)
    if (slots[b] >= pool_slots)
      return CallStatus::failure(StatusCode::bad_slot, "%s[%lld] = %d: must be below pool_slots = %lld", name,
                                 number(b), slots[b], number(pool_slots));
  return {};
}

/// The slots of a batch that are written, in the caller's order and, in `scratch`, in theirs.
class WrittenSlots {
 public:
  /// `scratch` has room for one entry per sequence; null: look-ups take longer.
  WrittenSlots(const std::int32_t* slots, std::int64_t batch, std::int32_t* scratch)
      : slots_(slots), end_(slots + batch), sorted_(scratch), sorted_end_(scratch) {
    if (scratch == nullptr) return;
    sorted_end_ = std::copy_if(slots, end_, scratch, [](std::int32_t s) { return s >= 0; });
    std::sort(sorted_, sorted_end_);
  }

  /// No slot may serve two sequences.
  CallStatus validate_distinct(const char* name) const {
    const std::int32_t* first = first_of_two();
    if (first == end_) return {};
    const std::int32_t* second = std::find(first + 1, end_, *first);
    return CallStatus::failure(StatusCode::bad_slot,
                               "%s[%lld] = %d: must not be used twice, and is by %s[%lld]", name,
                               number(second - slots_), *first, name, number(first - slots_));
  }
  /// The sequence that writes a slot; -1: none.
  std::int64_t writer(std::int32_t slot) const {
    if (sorted_ != nullptr && !std::binary_search(sorted_, sorted_end_, slot)) return -1;
    const std::int32_t* found = std::find(slots_, end_, slot);
    return found == end_ ? -1 : found - slots_;
  }

 private:
  const std::int32_t* first_of_two() const {
    if (sorted_ != nullptr) {
      const std::int32_t* twice = std::adjacent_find(sorted_, sorted_end_);
      return twice == sorted_end_ ? end_ : std::find(slots_, end_, *twice);
    }
    return std::find_if(slots_, end_, [&](const std::int32_t& slot) {
      return slot >= 0 && std::find(&slot + 1, end_, slot) != end_;
    });
  }

  const std::int32_t *slots_, *end_;
  std::int32_t *sorted_, *sorted_end_;
};

/// The slots of a forward call lie in the pool, and no sequence's final state goes where another has one of
/// its states. `scratch`: as in WrittenSlots.
template <class Arguments>
CallStatus validate_slots(const Arguments& args, std::int32_t* scratch) {
  const std::int64_t batch = args.shape.batch;
  const auto &initial = args.initial_state, &final = args.final_state;
  const bool reads = initial.h != nullptr, writes = final.h != nullptr || final.count != nullptr;
  if (reads)
    if (CallStatus s = validate_slots("read_slot", args.read_slot, batch, args.pool_slots); !s) return s;
  if (!writes) return {};
  const bool shared = reads && (initial.h == final.h || initial.count == final.count);
  if (args.write_slot == nullptr) {
    for (std::int64_t b = 0; shared && args.read_slot != nullptr && b < batch; ++b)
      if (const std::int32_t slot = args.read_slot[b]; slot >= 0 && slot < batch && slot != b)
        return CallStatus::failure(StatusCode::bad_slot,
                                   "read_slot[%lld] = %d: must not be where sequence %d has its final state",
                                   number(b), slot, slot);
    return {};
  }
  if (CallStatus s = validate_slots("write_slot", args.write_slot, batch, args.pool_slots); !s) return s;
  const WrittenSlots written(args.write_slot, batch, scratch);
  if (CallStatus s = written.validate_distinct("write_slot"); !s) return s;
  for (std::int64_t b = 0; shared && b < batch; ++b) {
    const std::int64_t slot = slot_of(args.read_slot, b);
    if (slot < 0 || slot == args.write_slot[b]) continue;
    if (const std::int64_t other = written.writer(static_cast<std::int32_t>(slot)); other >= 0)
      return CallStatus::failure(StatusCode::bad_slot,
                                 "write_slot[%lld] = %lld: must not be what sequence %lld reads",
                                 number(other), number(slot), number(b));
  }
  return {};
}

}  // namespace cottention::detail
