// Rows of one head of one sequence, between global memory and tiles.
#pragma once

#include <cstdint>

#include <cottention/device/async_copy.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/device/warp.cuh>
#include <cottention/tile/fragment.cuh>
#include <cottention/tile/layout.cuh>

namespace cottention::tile {

/// Row r at data + r stride, 0 <= r < length. A masked row reads as zeros, whatever bits it holds.
template <class T>
struct Rows {
  T* data = nullptr;
  std::int64_t stride = 0;
  int length = 0;
  const std::uint8_t* mask = nullptr;  // one byte a row, in global memory; null: all present

  __device__ __forceinline__ T* row(int r) const { return data + r * stride; }
  __device__ __forceinline__ bool contains(int r) const {
    return r < length && (mask == nullptr || device::load_global(mask + r) != 0);
  }
};

namespace detail {

/// Starts copying the unit at columns c, ... of `row`, to (r, c) of the tile.
template <bool masked, Element T, class Target>
__device__ __forceinline__ void copy_unit_async(const Rows<const T>& rows, int row, const T* from,
                                                Target& tile, int r, int c, bool in_row) {
  const bool present = in_row && row < rows.length && (!masked || device::load_global(rows.mask + row) != 0);
  device::copy_async_16(tile.at(r, c), present ? from : rows.data, present ? 16 : 0);
}

template <int threads, bool masked, Element T, int tile_rows, int tile_columns>
__device__ __forceinline__ void copy_rows_async(const Rows<const T>& rows, int first, int column, int dim,
                                                Tile<T, tile_rows, tile_columns>& tile) {
  using Target = Tile<T, tile_rows, tile_columns>;
  constexpr int at_once = threads < Target::units ? tile_rows + 1 : threads / Target::units;  // rows
  const int thread = device::afresh(device::thread_index());
  if constexpr (threads % Target::units == 0 && tile_rows % at_once == 0) {
    // A thread's units lie below one another.
    const int r = thread / Target::units;
    const int c = thread % Target::units * Target::unit;
    const T* from = rows.row(first + r) + column + c;
#pragma unroll
    for (int below = 0; below < tile_rows; below += at_once) {
      copy_unit_async<masked>(rows, first + r + below, from, tile, r + below, c, column + c < dim);
      from += at_once * rows.stride;
    }
  } else {
    constexpr int total = tile_rows * Target::units;
    for (int i = thread; i < total; i += threads) {
      const int r = i / Target::units, c = i % Target::units * Target::unit;
      copy_unit_async<masked>(rows, first + r, rows.row(first + r) + column + c, tile, r, c,
                              column + c < dim);
    }
  }
}

}  // namespace detail

/// Starts copying rows first, first + 1, ... and columns `column`, ... to `tile`; zeros where there is no
/// such row or column below `dim`. `threads` threads take part; the copies belong to the group that each
/// commits next.
template <int threads, Element T, int tile_rows, int tile_columns>
__device__ __forceinline__ void copy_rows_async(const Rows<const T>& rows, int first, int column, int dim,
                                                Tile<T, tile_rows, tile_columns>& tile) {
  if (rows.mask == nullptr)
    detail::copy_rows_async<threads, false>(rows, first, column, dim, tile);
  else
    detail::copy_rows_async<threads, true>(rows, first, column, dim, tile);
}

/// Writes 16 x 16 sums, or the upper 8 x 16, to columns `column`, ... of rows first, ..., those that exist
/// and lie below `dim`. Of rows (g) and (g + 8), one that is not to be kept becomes 0.
template <int block_rows, Element T>
__device__ __forceinline__ void store_rows(const Rows<T>& rows, int first, int column, int dim,
                                           const Sums<Accumulate<T>> (&sums)[2], const bool (&keep)[2]) {
  const int lane = device::lane_index(), g = lane / 4, t = lane % 4;
#pragma unroll
  for (int m = 0; m < block_rows / 8; ++m) {
    const int row = first + g + 8 * m;
    const bool exists = row < rows.length;
    T* to = rows.row(row) + column;
    Accumulate<T> x[2][2];
#pragma unroll
    for (int e = 0; e < 4; ++e) x[e / 2][e % 2] = keep[m] ? sums[e / 2].values[2 * m + e % 2] : 0;
    if constexpr (sizeof(T) == 2) {
      // Neighbouring lanes swap halves, so that a lane has four neighbours and four lanes fill a 32-byte
      // sector.
      using Quad = device::Vector<std::uint32_t, 2>;
      const std::uint32_t left = device::pack<T>(x[0][0], x[0][1]), right = device::pack<T>(x[1][0], x[1][1]);
      const bool odd = t % 2 != 0;
      const std::uint32_t other = device::shuffle_xor(odd ? left : right, 1);
      const Quad quad = odd ? Quad{{other, right}} : Quad{{left, other}};
      const int c = t % 2 * 8 + t / 2 * 4;
      if (exists && column + c < dim) device::store_global(reinterpret_cast<Quad*>(to + c), quad);
    } else {
      using Pair = device::Vector<T, 2>;
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int c = 8 * n + 2 * t;
        if (exists && column + c < dim)
          device::store_global(reinterpret_cast<Pair*>(to + c), Pair{{x[n][0], x[n][1]}});
      }
    }
  }
}

}  // namespace cottention::tile
