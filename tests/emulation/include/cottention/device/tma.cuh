// Copies of whole tiles between tensors in global memory and shared memory.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include <cottention/device/mbarrier.cuh>
#include <cottention/device/swizzle.cuh>
#include <cottention/element.hpp>

namespace cottention::device {

using TensorMap = emulation::TileMap;

template <int rank>
struct TensorTiles {
  static_assert(rank >= 2 && rank <= 4);
  const void* data = nullptr;
  std::int64_t extents[rank] = {};
  std::int64_t strides[rank - 1] = {};
  int tile[rank] = {};
  Swizzle swizzle = Swizzle::none;
};

template <Element T, int rank>
cudaError_t encode_map(TensorMap& map, const TensorTiles<rank>& tiles) {
  map = {};
  map.dimensions = rank;
  map.element_bytes = sizeof(T);
  map.data = tiles.data;
  map.swizzle_span = span_of(tiles.swizzle);
  map.strides[0] = sizeof(T);
  for (int i = 0; i < rank; ++i) {
    map.extents[i] = tiles.extents[i];
    map.tile[i] = tiles.tile[i];
    if (i > 0) map.strides[i] = tiles.strides[i - 1];
  }
  return emulation::encode(map) ? cudaSuccess : cudaErrorInvalidValue;
}

inline void prefetch_map(const TensorMap* map, emulation::Where where = emulation::Where::current()) {
  emulation::prefetch_map(map, where);
}

inline void fence_proxy_async(emulation::Where where = emulation::Where::current()) {
  emulation::fence_proxy_async(where);
}

// ---- loads ------------------------------------------------------------------------------------------------

[[gnu::always_inline]] inline void tma_load(void* to_shared, const TensorMap* map, Mbarrier* barrier, int i0,
                                            int i1, emulation::Where where = emulation::Where::current()) {
  const int coordinates[] = {i0, i1};
  emulation::tma_load(to_shared, map, barrier, coordinates, 2, where);
}

[[gnu::always_inline]] inline void tma_load(void* to_shared, const TensorMap* map, Mbarrier* barrier, int i0,
                                            int i1, int i2,
                                            emulation::Where where = emulation::Where::current()) {
  const int coordinates[] = {i0, i1, i2};
  emulation::tma_load(to_shared, map, barrier, coordinates, 3, where);
}

[[gnu::always_inline]] inline void tma_load(void* to_shared, const TensorMap* map, Mbarrier* barrier, int i0,
                                            int i1, int i2, int i3,
                                            emulation::Where where = emulation::Where::current()) {
  const int coordinates[] = {i0, i1, i2, i3};
  emulation::tma_load(to_shared, map, barrier, coordinates, 4, where);
}

// ---- stores -----------------------------------------------------------------------------------------------

[[gnu::always_inline]] inline void tma_store(const TensorMap* map, const void* from_shared, int i0, int i1,
                                             emulation::Where where = emulation::Where::current()) {
  const int coordinates[] = {i0, i1};
  emulation::tma_store(map, from_shared, coordinates, 2, where);
}

[[gnu::always_inline]] inline void tma_store(const TensorMap* map, const void* from_shared, int i0, int i1,
                                             int i2, emulation::Where where = emulation::Where::current()) {
  const int coordinates[] = {i0, i1, i2};
  emulation::tma_store(map, from_shared, coordinates, 3, where);
}

[[gnu::always_inline]] inline void tma_store(const TensorMap* map, const void* from_shared, int i0, int i1,
                                             int i2, int i3,
                                             emulation::Where where = emulation::Where::current()) {
  const int coordinates[] = {i0, i1, i2, i3};
  emulation::tma_store(map, from_shared, coordinates, 4, where);
}

inline void cp_async_bulk_commit(emulation::Where where = emulation::Where::current()) {
  emulation::cp_async_bulk_commit(where);
}

template <int groups>
void cp_async_bulk_wait_read(emulation::Where where = emulation::Where::current()) {
  emulation::cp_async_bulk_wait(groups, emulation::StoreStage::read, where);
}

template <int groups>
void cp_async_bulk_wait(emulation::Where where = emulation::Where::current()) {
  emulation::cp_async_bulk_wait(groups, emulation::StoreStage::written, where);
}

}  // namespace cottention::device
