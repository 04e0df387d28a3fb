// Exchange among the 32 lanes of a warp. All lanes must take part, converged.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

namespace cottention::device {

inline constexpr std::uint32_t all_lanes = 0xffffffffu;

/// Orders memory accesses among the lanes. PTX ISA: bar.warp.sync.
__device__ __forceinline__ void sync_warp() { __syncwarp(all_lanes); }

/// The value that lane (own index xor `mask`) holds. T has 4 or 8 bytes. PTX ISA: shfl.sync.bfly.
template <class T>
__device__ __forceinline__ T shuffle_xor(T value, int mask) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  return __shfl_xor_sync(all_lanes, value, mask);
}

/// The value that lane `source` holds. PTX ISA: shfl.sync.idx.
template <class T>
__device__ __forceinline__ T shuffle(T value, int source) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  return __shfl_sync(all_lanes, value, source);
}

/// The largest of the lanes' values, in every lane. PTX ISA: redux.sync.max.u32 (sm_80).
__device__ __forceinline__ std::uint32_t redux_max(std::uint32_t value) {
  std::uint32_t largest;
  asm volatile("redux.sync.max.u32 %0, %1, %2;" : "=r"(largest) : "r"(value), "n"(all_lanes));
  return largest;
}

/// One bit a lane. PTX ISA: vote.sync.ballot.
__device__ __forceinline__ std::uint32_t ballot(bool predicate) {
  return __ballot_sync(all_lanes, predicate);
}

/// Whether any lane's predicate holds. PTX ISA: vote.sync.any.
__device__ __forceinline__ bool any_lane(bool predicate) { return __any_sync(all_lanes, predicate) != 0; }

}  // namespace cottention::device
