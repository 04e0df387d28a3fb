// Rows of one head of one sequence: asynchronous copies from global memory to tiles, and stores from
// accumulators to global memory.
#pragma once

#include <cstdint>

#include <cottention/device/async_copy.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/device/warp.cuh>
#include <cottention/sm80/fragment.cuh>
#include <cottention/sm80/layout.cuh>
#include <cottention/tile/sequence.cuh>

namespace cottention::sm80 {

namespace detail {

/// f(r, c, source) for the 16-byte vectors of a tile that thread `thread` of `threads` copies: the vector is
/// at (r, c) of the tile and, in global memory, at column `column` + c of row first + r.
template <int threads, class Target, class T, class F>
__device__ __forceinline__ void for_each_vec_of_tile(unsigned thread, const tile::RowView<const T>& rows,
                                                     int first, int column, F f) {
  constexpr int rows_per_pass = threads < Target::vecs ? Target::rows + 1 : threads / Target::vecs;
  if constexpr (threads % Target::vecs == 0 && Target::rows % rows_per_pass == 0) {
    // All vectors of a thread are in one column.
    const int r = static_cast<int>(thread / Target::vecs);
    const int c = static_cast<int>(thread % Target::vecs) * Target::vec_size;
    const T* from = rows.row(first + r) + column + c;
    const std::int64_t step = rows_per_pass * rows.stride;
#pragma unroll
    for (int pass = 0; pass < Target::rows; pass += rows_per_pass, from += step) f(r + pass, c, from);
  } else {
    constexpr unsigned total = Target::rows * Target::vecs;
    for (unsigned i = thread; i < total; i += threads) {
      const int r = static_cast<int>(i / Target::vecs);
      const int c = static_cast<int>(i % Target::vecs) * Target::vec_size;
      f(r, c, rows.row(first + r) + column + c);
    }
  }
}

}  // namespace detail

/// Starts copying rows first, ..., and columns `column`, ..., of n tensors (length, dim), each to its tile
/// (Target::rows, Target::columns), with zeros for rows that do not exist or are masked and for columns from
/// `dim` on. All tensors have the length and the mask of the first. The copies belong to the group that each
/// thread commits next. Scope: `threads` threads; barriers inside: 0. A cp_async_wait() and a barrier must be
/// between it and reads of the tiles, a barrier between earlier reads of the tiles and it.
template <int threads, class T, class Target, int n>
__device__ __forceinline__ void copy_rows_async(const tile::RowView<const T> (&rows)[n], int first,
                                                int column, int dim, Target* const (&tiles)[n]) {
  static_assert(Target::vecs * Target::vec_size == Target::columns);
  const auto thread = static_cast<unsigned>(device::opaque(device::thread_index()));
  if (rows[0].mask == nullptr && first + Target::rows <= rows[0].length && column + Target::columns <= dim) {
#pragma unroll
    for (int x = 0; x < n; ++x)
      detail::for_each_vec_of_tile<threads, Target>(
          thread, rows[x], first, column,
          [&](int r, int c, const T* from) { device::cp_async_16(tiles[x]->at(r, c), from, 16); });
  } else {
#pragma unroll
    for (int x = 0; x < n; ++x)
      detail::for_each_vec_of_tile<threads, Target>(
          thread, rows[x], first, column, [&](int r, int c, const T* from) {
            const bool valid = column + c < dim && rows[0].contains(first + r);
            device::cp_async_16(tiles[x]->at(r, c), valid ? from : rows[x].data, valid ? 16 : 0);
          });
  }
}
/// copy_rows_async() of one tensor.
template <int threads, Element T, int tile_rows, int tile_columns>
__device__ __forceinline__ void copy_rows_async(const tile::RowView<const T>& rows, int first, int column,
                                                int dim, Tile<T, tile_rows, tile_columns>& tile) {
  const tile::RowView<const T> one[] = {rows};
  Tile<T, tile_rows, tile_columns>* const to[] = {&tile};
  copy_rows_async<threads>(one, first, column, dim, to);
}

/// The first of the 16 columns of a row that a lane stores: of four neighbours for 16-bit elements, of which
/// lanes exchange halves in store_row(), and of the pairs 2t and 2t + 8 otherwise.
template <Element T>
__device__ __forceinline__ int first_column(tile::Lane lane) {
  const int t = lane.t();
  return sizeof(T) == 2 ? t % 2 * 8 + t / 2 * 4 : 2 * t;
}

/// Stores row g + 8 lower of accumulators (16, 16), in lanes for which it `exists`: the elements of the
/// columns below `columns`, or zeros unless `keep`. `to` is the address of this lane's first_column() in the
/// row. Scope: warp; barriers inside: 0.
template <Element T>
__device__ __forceinline__ void store_row(T* to, int columns, const Accumulator<Accumulate<T>> (&sums)[2],
                                          int lower, bool keep, bool exists, tile::Lane lane) {
  const Accumulate<T>* const left = sums[0].values + 2 * lower;
  const Accumulate<T>* const right = sums[1].values + 2 * lower;
  const int c = first_column<T>(lane);
  if constexpr (sizeof(T) == 2) {
    // Lanes t and t xor 1 exchange pairs, so that a lane has four neighbouring elements and four lanes write
    // the whole 32-byte sector.
    using Quad = device::Vector<std::uint32_t, 2>;
    const std::uint32_t left_pair = keep ? device::pack<T>(left[0], left[1]) : 0;
    const std::uint32_t right_pair = keep ? device::pack<T>(right[0], right[1]) : 0;
    const bool odd = lane.t() % 2 != 0;
    const std::uint32_t other = device::shuffle_xor(odd ? left_pair : right_pair, 1);
    const Quad quad = odd ? Quad{{other, right_pair}} : Quad{{left_pair, other}};
    if (exists && (columns >= 16 || c < columns)) device::store_global(reinterpret_cast<Quad*>(to), quad);
  } else {
    using Pair = device::Vector<T, 2>;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const Accumulate<T>* const x = n == 0 ? left : right;
      if (exists && (columns >= 16 || c + 8 * n < columns))
        device::store_global(reinterpret_cast<Pair*>(to + 8 * n), keep ? Pair{{x[0], x[1]}} : Pair{{0, 0}});
    }
  }
}

}  // namespace cottention::sm80
