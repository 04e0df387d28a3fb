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

namespace cottention::sm80 {

namespace detail {

/// A row of a tile (tile_rows, columns) that lanes_per_row neighbouring lanes read together. `threads`
/// threads read rows_per_pass rows at a time; all lanes of a warp have a row or none has.
template <int threads, int tile_rows, class Source>
struct RowReader {
  using T = typename Source::Element;
  using A = Accumulate<T>;
  static constexpr int max_lanes = threads / tile_rows < 1 ? 1 : threads / tile_rows;
  static constexpr int lanes_per_row =
      static_cast<int>(std::bit_floor(static_cast<unsigned>(max_lanes < 32 ? max_lanes : 32)));
  static constexpr int rows_per_pass = threads / lanes_per_row;
  static_assert(
      tile_rows * lanes_per_row % 32 == 0 && rows_per_pass * lanes_per_row % 32 == 0,
      "cottention: warps measure rows whole. Remedy: chunk and warps that are powers of two, or leave the "
      "tiling to the library.");

  static constexpr int padded_vecs = round_up(Source::vecs, lanes_per_row < 8 ? 8 : lanes_per_row);
  static constexpr int rounds = padded_vecs / lanes_per_row;

  /// The index of the vector that a lane reads in a round. One pass over shared memory serves eight lanes,
  /// whose vectors must lie in different banks. A Tile swizzles vectors by bits of the row, so which bits of
  /// the index differ between lanes, and which between rounds, follows from the bits that differ between
  /// neighbouring rows.
  static __device__ __forceinline__ int vec_of(int lane_in_row, int round) {
    if constexpr (sizeof(T) == 2 && lanes_per_row < 8) {
      constexpr int run = 8 / lanes_per_row;
      return round / run * 8 + lane_in_row * run + round % run;
    } else if constexpr (sizeof(T) == 4 && lanes_per_row == 4) {
      return round / 2 * 8 + lane_in_row / 2 * 4 + round % 2 * 2 + lane_in_row % 2;
    } else {
      return round * lanes_per_row + lane_in_row;
    }
  }

  Source& tile;
  int row;

  static __device__ __forceinline__ int lane_in_row() { return device::thread_index() % lanes_per_row; }
  __device__ __forceinline__ tile::Vec<T>* vec(int round) const {
    const int u = vec_of(lane_in_row(), round);
    const bool exists = padded_vecs == Source::vecs || u < Source::vecs;
    return exists ? reinterpret_cast<tile::Vec<T>*>(tile.at(row, u * Source::vec_size)) : nullptr;
  }

  template <class Combine>
  static __device__ __forceinline__ A reduce_row(A x, Combine combine) {
#pragma unroll
    for (int distance = 1; distance < lanes_per_row; distance *= 2)
      x = combine(x, device::shuffle_xor(x, distance));
    return x;
  }
  static __device__ __forceinline__ A sum_row(A x) {
    return reduce_row(x, [](A a, A b) { return a + b; });
  }

  __device__ __forceinline__ A sum_sq() const {
    A sum{};
#pragma unroll
    for (int round = 0; round < rounds; ++round) {
      const tile::Vec<T>* at = vec(round);
      if (at == nullptr) continue;
      const tile::Vec<T> x = device::load_shared(at);
#pragma unroll
      for (int e = 0; e < Source::vec_size; ++e)
        sum = device::fma(tile::element<T>(x, e), tile::element<T>(x, e), sum);
    }
    return sum_row(sum);
  }

  /// The largest magnitude of the row, in all lanes of the row; infinite where an element is not finite.
  __device__ __forceinline__ A max_magnitude() const {
    A largest{};
#pragma unroll 1
    for (int round = 0; round < rounds; ++round) {
      const tile::Vec<T>* at = vec(round);
      if (at == nullptr) continue;
      const tile::Vec<T> x = device::load_shared(at);
#pragma unroll
      for (int e = 0; e < Source::vec_size; ++e) {
        const A magnitude = device::magnitude(device::widen<T>(x[e]));
        largest = !device::is_finite(magnitude) ? tile::infinity<A>()
                  : magnitude > largest         ? magnitude
                                                : largest;
      }
    }
    return reduce_row(largest, [](A a, A b) { return a < b ? b : a; });
  }

  /// Divides the row by 2^exponent in place, and returns the sum of the squares of the quotients.
  __device__ __forceinline__ A rescale(int exponent) const {
    A sum{};
#pragma unroll 1
    for (int round = 0; round < rounds; ++round) {
      tile::Vec<T>* at = vec(round);
      if (at == nullptr) continue;
      tile::Vec<T> x = device::load_shared(at);
#pragma unroll
      for (int e = 0; e < Source::vec_size; ++e) {
        const A scaled = device::times_power_of_two(device::widen<T>(x[e]), -exponent);
        x[e] = device::narrow<T>(scaled);
        sum = device::fma(scaled, scaled, sum);
      }
      if (exponent != 0) device::store_shared(at, x);
    }
    return sum_row(sum);
  }
};

/// The norm of a row from its sum_sq, in all lanes of the row. An `extreme` row is scaled in place so that
/// its largest element has the exponent `shift`. Scope: warp; barriers inside: 0.
template <class Reader, class A>
__device__ __forceinline__ tile::RowNorm<A> rescale_row(const Reader& reader, A sum_sq, bool extreme,
                                                        int shift) {
  int exponent = 0;
  if (device::any_lane(extreme)) {
    const A largest = reader.max_magnitude();
    if (extreme && largest > A{0} && device::is_finite(largest))
      exponent = device::exponent_of(largest) - shift;
    if (device::any_lane(exponent != 0)) {
      const A rescaled = reader.rescale(exponent);
      if (exponent != 0) sum_sq = rescaled;
    }
  }
  return {sum_sq, exponent};
}

/// The sum of the squares of row 16 i + lane / 2 of a tile (tile_rows, tile_columns) of 16-bit elements, by
/// the tensor cores: the diagonal of x x^T for 16 rows x. Scope: warp; barriers inside: 0.
template <Element T, int tile_rows, int tile_columns>
__device__ __forceinline__ float sum_sq_of_rows(const Tile<T, tile_rows, tile_columns>& tile, int i) {
  const Lane lane = Lane::opaque();
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
    using Reader = RowReader<device::warp_size, 16, Tile<T, tile_rows, tile_columns>>;
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
    using Reader = RowReader<threads, tile_rows, Tile<T, tile_rows, tile_columns>>;
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
    const auto norm = detail::rescale_row(reader, sum_sq, !zero && !tile::in_range<T>(sum_sq), 0);
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
      if (vanishes && largest > A{0}) norm = {A{tile_columns}, device::exponent_of(largest) + 1};
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
    const tile::RowNorm<float> of_c = detail::rescale_row(reader, sum_sq, extreme, shift);
    if (reader.lane_in_row() == 0) write(reader.row, of_b, of_c);
  });
}

}  // namespace cottention::sm80
