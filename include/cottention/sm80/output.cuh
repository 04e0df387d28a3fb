// The parts of an epilogue that do not depend on the output: scaling the rows of accumulators and storing
// them.
#pragma once

#include <type_traits>

#include <cottention/sm80/partition.cuh>
#include <cottention/sm80/rows.cuh>
#include <cottention/tile/counts.cuh>

namespace cottention::sm80 {

/// f(sum, i, lower) for each accumulator of the lane, one of row g + 8 lower of the warp's i-th block of
/// rows.
template <class Part, class F>
__device__ __forceinline__ void for_each_sum(typename Part::Output& out, F f) {
#pragma unroll
  for (int i = 0; i < Part::warp_row_blocks; ++i)
#pragma unroll
    for (int m = 0; m < Part::warp_column_blocks; ++m)
#pragma unroll
      for (int e = 0; e < 8; ++e) f(out.sums[i][m][e / 4].values[e % 4], i, e / 2 % 2);
}

/// The factors (chunk) of rows row + g and row + g + 8; a chunk of 8 has the same row twice.
template <int chunk, class A>
__device__ __forceinline__ void load_row_factors(const A* factors_shared, int row, A (&factors)[2]) {
  const int g = device::lane_index() / 4;
  factors[0] = device::load_shared(factors_shared + row + g);
  factors[1] = device::load_shared(factors_shared + (row + g + 8) % chunk);
}

/// Multiplies each row of out (16 warp_row_blocks, warp_columns) by `scale` and by its factor, of factors
/// (chunk).
template <class Part>
__device__ __forceinline__ void scale_rows(typename Part::Output& out, const typename Part::A* factors_shared,
                                           typename Part::A scale) {
  const int warp_k = Part::warp_k();
  typename Part::A factors[Part::warp_row_blocks][2];
#pragma unroll
  for (int i = 0; i < Part::warp_row_blocks; ++i) {
    load_row_factors<Part::chunk>(factors_shared, 16 * Part::row_block(i, warp_k), factors[i]);
    factors[i][0] *= scale;
    factors[i][1] *= scale;
  }
  for_each_sum<Part>(out, [&factors](typename Part::A& sum, int i, int lower) { sum *= factors[i][lower]; });
}

/// Multiplies all of out by `scale`.
template <class Part>
__device__ __forceinline__ void scale_all(typename Part::Output& out, typename Part::A scale) {
  for_each_sum<Part>(out, [scale](typename Part::A& sum, int, int) { sum *= scale; });
}

/// Stores the warp's part of the output, (16 warp_row_blocks, warp_columns), to rows row, ... of `rows`
/// (length, dim): the rows that exist, and the columns below `dim`, the first of the block being `column`.
/// Rows that are not valid become 0. Scope: warp; barriers inside: 0.
template <class Part, class E>
__device__ __forceinline__ void store_output(const tile::RowView<E>& rows, int row, int column, int dim,
                                             const tile::ValidRows<Part::chunk>& valid,
                                             const typename Part::Output& out) {
  const tile::Lane lane = tile::Lane::opaque();
  const int g = lane.g(), left = column + Part::warp_column(), warp_k = Part::warp_k();
  E* to = rows.row(row + 16 * Part::row_block(0, warp_k) + g) + left + first_column<E>(lane);
  const std::int64_t step = 8 * rows.stride;
  // Most chunks have only valid rows, and are stored without predicates.
  const auto store = [&](auto is_whole) {
    constexpr bool whole = decltype(is_whole)::value;
#pragma unroll
    for (int i = 0; i < Part::warp_row_blocks; ++i) {
      const int top = 16 * Part::row_block(i, warp_k);
#pragma unroll
      for (int lower = 0; lower < Part::block_rows / 8; ++lower, to += step) {
        const int r = top + 8 * lower;
        const bool keep = whole || valid.contains(r, g), exists = whole || row + r + g < rows.length;
#pragma unroll
        for (int m = 0; m < Part::warp_column_blocks; ++m)
          store_row(to + 16 * m, dim % Part::columns == 0 ? 16 : dim - left - 16 * m, out.sums[i][m], lower,
                    keep, exists, lane);
      }
      if constexpr (Part::splits_m)
        if (i + 1 < Part::warp_row_blocks)
          to += (2 * (Part::row_block(i + 1, warp_k) - Part::row_block(i, warp_k)) - 2) * step;
    }
  };
  if (valid.all())
    store(std::true_type{});
  else
    store(std::false_type{});
}

}  // namespace cottention::sm80
