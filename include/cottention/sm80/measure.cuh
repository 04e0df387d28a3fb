// The norms of the rows of a tile.
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>

#include <cottention/device/convert.cuh>
#include <cottention/device/math.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/mma.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/device/warp.cuh>
#include <cottention/problem.hpp>
#include <cottention/sm80/fragment.cuh>
#include <cottention/sm80/layout.cuh>
#include <cottention/tile/row_norm.cuh>
#include <cottention/tile/row_reader.cuh>

namespace cottention::sm80 {

namespace detail {

/// The sum of the squares of row 16 i + lane / 2 of a tile (tile_rows, tile_columns) of 16-bit elements, by
/// the tensor cores: the diagonal of x x^T for 16 rows x. Scope: warp; barriers inside: 0.
template <Element T, int tile_rows, int tile_columns>
__device__ __forceinline__ float sum_sq_of_rows(const Tile<T, tile_rows, tile_columns>& tile, int i) {
  const tile::Lane lane = tile::Lane::opaque();
  // Rows 0 to 7 with themselves, and rows 8 to 15: of each (16, 8), half is used.
  Accumulator<float> upper, lower;
  set_to_zero(upper);
  set_to_zero(lower);
#pragma unroll
  for (int k = 0; k < tile_columns; k += mma_k<T>) {
    const Fragment<T, Operand::a> x = load_rows<Operand::a>(tile.below(16 * i), 0, k, lane);
    const std::uint32_t rows_0_to_7[2] = {x.r[0], x.r[2]}, rows_8_to_15[2] = {x.r[1], x.r[3]};
    device::mma_m16n8k16<T>(upper.values, x.r, rows_0_to_7);
    device::mma_m16n8k16<T>(lower.values, x.r, rows_8_to_15);
  }
  // A lane's accumulators are of rows g and g + 8 with columns 2t and 2t + 1 of the same half.
  const bool odd = lane.g() % 2 != 0;
  const int row = lane.index / 2, source_lane = row % 8 * 4 + row % 8 / 2;
  const float of_upper = device::shuffle(odd ? upper.values[1] : upper.values[0], source_lane);
  const float of_lower = device::shuffle(odd ? lower.values[3] : lower.values[2], source_lane);
  return row < 8 ? of_upper : of_lower;
}

/// f(reader, sum_sq of its row) for each row that this lane reads. For 16-bit elements a warp has 16 rows at
/// a time, the first 16 being those of warp `first_warp`, at most the number of warps. Scope: block; barriers
/// inside: 0.
template <int threads, Element T, int tile_rows, int tile_columns, class F>
__device__ __forceinline__ void for_each_row(Tile<T, tile_rows, tile_columns>& tile, int first_warp, F f) {
  if constexpr (sizeof(T) == 2) {
    using Reader = tile::RowReader<device::warp_size, 16, Tile<T, tile_rows, tile_columns>>;
    constexpr int warps = threads / device::warp_size;
    const int warp = device::warp_index();
    // For wide rows the warp's index is opaque: addresses that follow from it would otherwise be kept for all
    // chunks. For bf16 at dim 128 that is 2 to 7 registers, and a spill of the fused backward.
    constexpr bool recomputes_warp = tile_columns > 64;
    const auto rotated_warp =
        static_cast<unsigned>((recomputes_warp ? device::opaque(warp) : warp) + warps - first_warp);
    for (int i = static_cast<int>(rotated_warp % warps); i < tile_rows / 16; i += warps)
      f(Reader{tile, 16 * i + device::lane_index() / Reader::lanes_per_row}, sum_sq_of_rows(tile, i));
  } else {
    using Reader = tile::RowReader<threads, tile_rows, Tile<T, tile_rows, tile_columns>>;
    for (int row = device::thread_index() / Reader::lanes_per_row; row < tile_rows;
         row += Reader::rows_per_pass) {
      const Reader reader{tile, row};
      f(reader, reader.sum_sq());
    }
  }
}

}  // namespace detail

/// `write(row, norm)` once for each row of `tile` (tile_rows, tile_columns), by the same thread whatever
/// tile_columns is. For 16-bit elements 16 rows at a time go to the warps in order, beginning with warp
/// `first_warp`.
///
/// A row that fp32 could not square, or half's range not hold, is first scaled in place by a power of two,
/// which is exact but for elements 2^-14 of the largest (half) or smaller still. Rows that are zero, or have
/// an infinity or a NaN, are not scaled. Scope: block; barriers inside: 0. A barrier must be between writes
/// to the tile and it, and between it and reads of the tile or of what `write` wrote.
template <int threads, Element T, int tile_rows, int tile_columns, class Write>
__device__ __forceinline__ void rescale_and_measure_rows(Tile<T, tile_rows, tile_columns>& tile,
                                                         int first_warp, Write write) {
  detail::for_each_row<threads>(tile, first_warp, [&](const auto& reader, Accumulate<T> sum_sq) {
    // The square of half's smallest number, 2^-48, is in fp32's range: only a row of zeros has the sum 0.
    const bool zero = std::same_as<T, half> && sum_sq == 0;
    const auto norm = tile::rescale_row(reader, sum_sq, !zero && !tile::in_range<T>(sum_sq), 0);
    if (reader.lane_in_row() == 0) write(reader.row, norm);
  });
}

/// rescale_and_measure_rows() for rows that fp32 can square: none is scaled. Scope: block; barriers inside:
/// 0. Barriers around it as for that.
template <int threads, Element T, int tile_rows, int tile_columns, class Write>
__device__ __forceinline__ void measure_rows(Tile<T, tile_rows, tile_columns>& tile, int first_warp,
                                             Write write) {
  detail::for_each_row<threads>(tile, first_warp, [&](const auto& reader, Accumulate<T> sum_sq) {
    if (reader.lane_in_row() == 0) write(reader.row, tile::RowNorm<Accumulate<T>>{sum_sq, 0});
  });
}

/// rescale_and_measure_rows() without scaling. Of a row whose sum of squares is below 2^-80, where squares
/// may have underflowed, `norm` is an upper bound, 0 for zeros alone. Scope: block; barriers inside: 0.
/// Barriers around it as for that.
template <int threads, Element T, int tile_rows, int tile_columns, class Write>
__device__ __forceinline__ void bound_norms(Tile<T, tile_rows, tile_columns>& tile, int first_warp,
                                            Write write) {
  using A = Accumulate<T>;
  detail::for_each_row<threads>(tile, first_warp, [&](const auto& reader, A sum_sq) {
    tile::RowNorm<A> norm{sum_sq, 0};
    const bool vanishes = sum_sq < A{0x1p-80};
    if (device::any_lane(vanishes)) {
      const A largest = reader.max_magnitude();
      if (vanishes && largest > A{0}) norm = tile::norm_bound(tile_columns, largest);
    }
    if (reader.lane_in_row() == 0) write(reader.row, norm);
  });
}

/// `write(row, norm of b, norm of c)` once for each row of tiles b (tile_rows, b_columns) and c (tile_rows,
/// c_columns) of half that products b c^T multiply. b is not changed; a row of c is scaled so that its
/// exponent is near half the exponent of b's norm: then neither c, nor b times a row of norm 1 over the scale
/// of c, leaves half's range. Rows go to warps as in rescale_and_measure_rows(). Scope: block; barriers
/// inside: 0, and barriers around it as for that.
template <int threads, int tile_rows, int b_columns, int c_columns, class Write>
__device__ __forceinline__ void rescale_and_measure_pairs(Tile<half, tile_rows, b_columns>& b,
                                                          Tile<half, tile_rows, c_columns>& c, int first_warp,
                                                          Write write) {
  detail::for_each_row<threads>(c, first_warp, [&](const auto& reader, float sum_sq) {
    const tile::RowNorm<float> of_b{detail::sum_sq_of_rows(b, reader.row / 16), 0};
    const int shift = tile::half_exponent(of_b);
    const bool extreme =
        sum_sq != 0.0f && !tile::in_range<half>(device::times_power_of_two(sum_sq, -2 * shift));
    const tile::RowNorm<float> of_c = tile::rescale_row(reader, sum_sq, extreme, shift);
    if (reader.lane_in_row() == 0) write(reader.row, of_b, of_c);
  });
}

}  // namespace cottention::sm80
