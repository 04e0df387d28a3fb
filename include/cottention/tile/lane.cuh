// The index of a lane in the fragments of the tensor cores.
#pragma once

#include <cuda_runtime.h>

#include <cottention/device/thread.cuh>

namespace cottention::tile {

/// The index of a lane. Functions that compute addresses in tiles from it take it from opaque()
/// (device/thread.cuh).
struct Lane {
  int index;
  static __device__ __forceinline__ Lane opaque() { return {device::opaque(device::lane_index())}; }
  __device__ __forceinline__ unsigned number() const { return static_cast<unsigned>(index); }
  __device__ __forceinline__ int g() const { return static_cast<int>(number() / 4); }
  __device__ __forceinline__ int t() const { return static_cast<int>(number() % 4); }
};

}  // namespace cottention::tile
