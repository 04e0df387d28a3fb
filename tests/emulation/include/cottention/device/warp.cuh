// Exchange among the 32 lanes of a warp.
#pragma once

#include <cstdint>
#include <cstring>

#include <cuda_runtime.h>

#include <cottention/device/thread.cuh>

namespace cottention::device {

inline constexpr std::uint32_t all_lanes = 0xffffffffu;

inline void sync_warp(emulation::Where where = emulation::Where::current()) { emulation::sync_warp(where); }

template <class T>
T shuffle(T value, int source, emulation::Where where = emulation::Where::current()) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = emulation::shuffle(bits, source, where);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <class T>
T shuffle_xor(T value, int mask, emulation::Where where = emulation::Where::current()) {
  return device::shuffle(value, lane_index() ^ mask, where);  // std has one too
}

inline std::uint32_t redux_max(std::uint32_t value, emulation::Where where = emulation::Where::current()) {
  for (int distance = 1; distance < warp_size; distance *= 2) {
    const std::uint32_t other = shuffle_xor(value, distance, where);
    value = other > value ? other : value;
  }
  return value;
}

inline std::uint32_t ballot(bool predicate, emulation::Where where = emulation::Where::current()) {
  return emulation::vote(predicate, emulation::Vote::ballot, where);
}

inline bool any_lane(bool predicate, emulation::Where where = emulation::Where::current()) {
  return emulation::vote(predicate, emulation::Vote::any, where) != 0;
}

}  // namespace cottention::device
