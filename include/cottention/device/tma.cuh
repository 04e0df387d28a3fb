// Copies of whole tiles between tensors in global memory and shared memory by the tensor memory accelerator
// (TMA). PTX ISA: cp.async.bulk.tensor (sm_90). All functions are of one thread.
//
// Dimension 0 is the innermost, whose elements are neighbours; coordinates are those of a tile's first
// element and may lie outside the tensor. Elements outside the tensor are zero when loaded and not written
// when stored. Tiles lie in shared memory with the innermost dimension first and rows next to one another,
// permuted as the map's swizzle says, and start at a multiple of 128 bytes and of the swizzle's repeat.
#pragma once

#include <concepts>
#include <cstdint>

#include <cuda.h>
#include <cuda_runtime.h>

#include <cottention/device/mbarrier.cuh>
#include <cottention/device/swizzle.cuh>
#include <cottention/element.hpp>

namespace cottention::device {

/// The encoded description of a tensor and its tiles. Kernels take it as a part of their Params, which lie in
/// memory that TMA may read.
using TensorMap = CUtensorMap;

/// What a TensorMap is made of.
template <int rank>
struct TensorTiles {
  static_assert(rank >= 2 && rank <= 4);
  const void* data = nullptr;       ///< aligned to 16
  std::int64_t extents[rank] = {};  ///< elements, up to 2^32
  std::int64_t strides[rank - 1] =
      {};                           ///< bytes from one index to the next of dimensions 1 up, multiples of 16
  int tile[rank] = {};              ///< elements, 1 to 256; those of dimension 0 fill a multiple of 16 bytes
  Swizzle swizzle = Swizzle::none;  ///< unless none, dimension 0 of a tile fills at most its span
};

/// Fails with cudaErrorInvalidValue where a rule above is broken, and cudaErrorNotSupported where the driver
/// has no tensor maps. PTX ISA, "Tensor-map"; CUDA driver API, cuTensorMapEncodeTiled.
template <Element T, int rank>
cudaError_t encode_map(TensorMap& map, const TensorTiles<rank>& tiles) {
  using Encode = decltype(&cuTensorMapEncodeTiled);
  static const Encode encode = [] {
    constexpr unsigned first_version = 12000;
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                               first_version, cudaEnableDefault, &found);
    if (error != cudaSuccess) (void)cudaGetLastError();
    return error == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(function)
                                                                        : nullptr;
  }();
  if (encode == nullptr) return cudaErrorNotSupported;
  constexpr CUtensorMapDataType type = std::same_as<T, double>  ? CU_TENSOR_MAP_DATA_TYPE_FLOAT64
                                       : std::same_as<T, float> ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                                       : std::same_as<T, half>  ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                                : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  constexpr CUtensorMapSwizzle swizzles[] = {CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_SWIZZLE_32B,
                                             CU_TENSOR_MAP_SWIZZLE_64B, CU_TENSOR_MAP_SWIZZLE_128B};
  cuuint64_t extents[rank], strides[rank - 1];
  cuuint32_t tile[rank], every[rank];
  for (int i = 0; i < rank; ++i) {
    extents[i] = static_cast<cuuint64_t>(tiles.extents[i]);
    tile[i] = static_cast<cuuint32_t>(tiles.tile[i]);
    every[i] = 1;
  }
  for (int i = 0; i < rank - 1; ++i) strides[i] = static_cast<cuuint64_t>(tiles.strides[i]);
  const CUresult result =
      encode(&map, type, rank, const_cast<void*>(tiles.data), extents, strides, tile, every,
             CU_TENSOR_MAP_INTERLEAVE_NONE, swizzles[static_cast<int>(tiles.swizzle)],
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

/// Loads the map into the cache before its first use. PTX ISA: prefetch.tensormap.
__device__ __forceinline__ void prefetch_tensormap(const TensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/// Orders the reads and writes of shared memory by this thread so far, and those by other threads that a
/// barrier has made visible to it, before the TMA copies and the wgmma products that follow. PTX ISA:
/// fence.proxy.async.
__device__ __forceinline__ void fence_proxy_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- loads: the barrier's phase counts all bytes of the tile, those outside the tensor too ----------------

/// PTX ISA: cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.
__device__ __forceinline__ void tma_load(void* to_shared, const TensorMap* map, Mbarrier* barrier, int i0,
                                         int i1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
      "%4}], [%2];" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(to_shared))),
      "l"(map), "r"(static_cast<unsigned>(__cvta_generic_to_shared(barrier))), "r"(i0), "r"(i1)
      : "memory");
}

/// PTX ISA: cp.async.bulk.tensor.3d.
__device__ __forceinline__ void tma_load(void* to_shared, const TensorMap* map, Mbarrier* barrier, int i0,
                                         int i1, int i2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, "
      "%5}], "
      "[%2];" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(to_shared))),
      "l"(map), "r"(static_cast<unsigned>(__cvta_generic_to_shared(barrier))), "r"(i0), "r"(i1), "r"(i2)
      : "memory");
}

/// PTX ISA: cp.async.bulk.tensor.4d.
__device__ __forceinline__ void tma_load(void* to_shared, const TensorMap* map, Mbarrier* barrier, int i0,
                                         int i1, int i2, int i3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, "
      "%5, %6}], "
      "[%2];" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(to_shared))),
      "l"(map), "r"(static_cast<unsigned>(__cvta_generic_to_shared(barrier))), "r"(i0), "r"(i1), "r"(i2),
      "r"(i3)
      : "memory");
}

// ---- stores -----------------------------------------------------------------------------------------------

/// PTX ISA: cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group.
__device__ __forceinline__ void tma_store(const TensorMap* map, const void* from_shared, int i0, int i1) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
               "r"(static_cast<unsigned>(__cvta_generic_to_shared(from_shared))), "r"(i0), "r"(i1)
               : "memory");
}

/// PTX ISA: cp.async.bulk.tensor.3d.
__device__ __forceinline__ void tma_store(const TensorMap* map, const void* from_shared, int i0, int i1,
                                          int i2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map),
      "r"(static_cast<unsigned>(__cvta_generic_to_shared(from_shared))), "r"(i0), "r"(i1), "r"(i2)
      : "memory");
}

/// PTX ISA: cp.async.bulk.tensor.4d.
__device__ __forceinline__ void tma_store(const TensorMap* map, const void* from_shared, int i0, int i1,
                                          int i2, int i3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
      "r"(static_cast<unsigned>(__cvta_generic_to_shared(from_shared))), "r"(i0), "r"(i1), "r"(i2), "r"(i3)
      : "memory");
}

/// Makes a group of the stores that this thread has issued since its last group. PTX ISA:
/// cp.async.bulk.commit_group.
__device__ __forceinline__ void cp_async_bulk_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

/// Waits until at most `groups` of this thread's latest groups are still to be read from shared memory. Tiles
/// must not be overwritten and the block must not end before they have been read. PTX ISA:
/// cp.async.bulk.wait_group.read.
template <int groups>
__device__ __forceinline__ void cp_async_bulk_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(groups) : "memory");
}

/// Waits until at most `groups` of this thread's latest groups are still to be written to global memory. PTX
/// ISA: cp.async.bulk.wait_group.
template <int groups>
__device__ __forceinline__ void cp_async_bulk_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(groups) : "memory");
}

}  // namespace cottention::device
