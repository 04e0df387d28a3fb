// The lengths of the rows of a tile.
#pragma once

#include <concepts>
#include <cstdint>

#include <cottention/device/convert.cuh>
#include <cottention/device/math.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/device/warp.cuh>
#include <cottention/problem.hpp>
#include <cottention/sm80/fragment.cuh>
#include <cottention/sm80/layout.cuh>
#include <cottention/tile/row_norm.cuh>

namespace cottention::sm80 {

namespace detail {

/// Largest power of two up to x.
__host__ __device__ constexpr int power_of_two_below(int x) {
  int p = 1;
  while (2 * p <= x) p *= 2;
  return p;
}

/// How `threads` threads share `tile_rows` rows of a tile: `sharing` neighbours a row, so that warps come in
/// whole or not at all.
template <int threads, int tile_rows, class Source>
struct RowReader {
  using T = typename Source::Element;
  using A = Accumulate<T>;
  static constexpr int whole = threads / tile_rows < 1 ? 1 : threads / tile_rows;
  static constexpr int sharing = power_of_two_below(whole < 32 ? whole : 32);
  static constexpr int at_once = threads / sharing;
  static_assert(
      tile_rows * sharing % 32 == 0 && at_once * sharing % 32 == 0,
      "cottention: warps measure rows whole. Remedy: chunk and warps that are powers of two, or leave the "
      "tiling to the library.");

  static constexpr int vecs_in_rounds = round_up(Source::vecs, sharing < 8 ? 8 : sharing);
  static constexpr int rounds = vecs_in_rounds / sharing;

  /// The vec that a lane reads in a round. Eight lanes load at once, and their rows and vecs must fall to
  /// different banks, given how a Tile permutes vecs: which bits of its index tell lanes apart, and
  /// which rounds, depends on the bits that differ between neighbouring rows.
  static __device__ __forceinline__ int vec_of(int part, int round) {
    if constexpr (sizeof(T) == 2 && sharing < 8) {
      constexpr int run = 8 / sharing;
      return round / run * 8 + part * run + round % run;
    } else if constexpr (sizeof(T) == 4 && sharing == 4) {
      return round / 2 * 8 + part / 2 * 4 + round % 2 * 2 + part % 2;
    } else {
      return round * sharing + part;
    }
  }

  Source& tile;
  int row;

  static __device__ __forceinline__ int part() { return device::thread_index() % sharing; }
  __device__ __forceinline__ tile::Vec<T>* vec(int round) const {
    const int u = vec_of(part(), round);
    const bool exists = vecs_in_rounds == Source::vecs || u < Source::vecs;
    return exists ? reinterpret_cast<tile::Vec<T>*>(tile.at(row, u * Source::vec_size)) : nullptr;
  }

  template <class Combine>
  static __device__ __forceinline__ A over_row(A x, Combine combine) {
#pragma unroll
    for (int distance = 1; distance < sharing; distance *= 2)
      x = combine(x, device::shuffle_xor(x, distance));
    return x;
  }
  static __device__ __forceinline__ A sum_over_row(A x) {
    return over_row(x, [](A a, A b) { return a + b; });
  }

  __device__ __forceinline__ A squares() const {
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
    return sum_over_row(sum);
  }

  /// The largest magnitude of the row; infinite where an element is not finite.
  __device__ __forceinline__ A largest() const {
    A most{};
#pragma unroll 1
    for (int round = 0; round < rounds; ++round) {
      const tile::Vec<T>* at = vec(round);
      if (at == nullptr) continue;
      const tile::Vec<T> x = device::load_shared(at);
#pragma unroll
      for (int e = 0; e < Source::vec_size; ++e) {
        const A size = device::magnitude(device::widen<T>(x[e]));
        most = !device::is_finite(size) ? tile::infinity<A>() : size > most ? size : most;
      }
    }
    return over_row(most, [](A a, A b) { return a < b ? b : a; });
  }

  /// Divides the row by 2^exponent, and returns the sum of its squares then.
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
    return sum_over_row(sum);
  }
};

/// The length of a row from the sum of its squares; scales it in place by 2^-exponent where it is `extreme`,
/// and then by 2^shift too. The same in all lanes that share the row.
template <class Reader, class A>
__device__ __forceinline__ tile::RowNorm<A> rescale_row(const Reader& reader, A squares, bool extreme,
                                                        int shift) {
  int exponent = 0;
  if (device::any_lane(extreme)) {
    const A largest = reader.largest();
    if (extreme && largest > A{0} && device::is_finite(largest))
      exponent = device::exponent_of(largest) - shift;
    if (device::any_lane(exponent != 0)) {
      const A rescaled = reader.rescale(exponent);
      if (exponent != 0) squares = rescaled;
    }
  }
  return {squares, exponent};
}

/// The sum of the squares of row 16 i + lane / 2, of 16-bit elements: on the tensor cores, the diagonal of
/// x x^T for the rows x of a block. By a whole warp.
template <Element T, int tile_rows, int tile_columns>
__device__ __forceinline__ float sum_sq_of_rows(const Tile<T, tile_rows, tile_columns>& tile, int i) {
  const Lane lane = Lane::opaque();
  Accumulator<float> upper,
      lower;  // rows 0 to 7 with themselves, 8 to 15 likewise; the other half of each is not used
  set_to_zero(upper);
  set_to_zero(lower);
#pragma unroll
  for (int k = 0; k < tile_columns; k += mma_k<T>) {
    const Fragment<T, Operand::a> x = load_rows<Operand::a>(tile.below(16 * i), 0, k, lane);
    const std::uint32_t rows_0_to_7[2] = {x.r[0], x.r[2]}, rows_8_to_15[2] = {x.r[1], x.r[3]};
    device::mma_m16n8k16<T>(upper.values, x.r, rows_0_to_7);
    device::mma_m16n8k16<T>(lower.values, x.r, rows_8_to_15);
  }
  // A lane's sums are of rows g and g + 8 with 2t and 2t + 1 of the same half.
  const bool odd = lane.g() % 2 != 0;
  const int row = lane.index / 2, from = row % 8 * 4 + row % 8 / 2;
  const float of_upper = device::shuffle(odd ? upper.values[1] : upper.values[0], from);
  const float of_lower = device::shuffle(odd ? lower.values[3] : lower.values[2], from);
  return row < 8 ? of_upper : of_lower;
}

/// f(reader, squares of its row) for each row that falls to this lane. Of 16-bit elements a warp has 16 rows
/// at a time; the first of them to warp `from`, at most the number of warps.
template <int threads, Element T, int tile_rows, int tile_columns, class F>
__device__ __forceinline__ void for_each_row(Tile<T, tile_rows, tile_columns>& tile, int from, F f) {
  if constexpr (sizeof(T) == 2) {
    using Reader = RowReader<device::warp_size, 16, Tile<T, tile_rows, tile_columns>>;
    constexpr int warps = threads / device::warp_size;
    const int warp = device::warp_index();
    // Half has the most to hold: where rows are wide, what follows from the warp is not kept.
    constexpr bool recomputes_warp = std::same_as<T, half> && tile_columns > 64;
    const auto turn = static_cast<unsigned>((recomputes_warp ? device::opaque(warp) : warp) + warps - from);
    for (int i = static_cast<int>(turn % warps); i < tile_rows / 16; i += warps)
      f(Reader{tile, 16 * i + device::lane_index() / Reader::sharing}, sum_sq_of_rows(tile, i));
  } else {
    using Reader = RowReader<threads, tile_rows, Tile<T, tile_rows, tile_columns>>;
    for (int row = device::thread_index() / Reader::sharing; row < tile_rows; row += Reader::at_once) {
      const Reader reader{tile, row};
      f(reader, reader.squares());
    }
  }
}

}  // namespace detail

/// For each row of `tile`, `write(row, norm)` once, by the same thread whatever the columns of the tile.
/// 16-bit, rows fall to the warps in turn, beginning with warp `from`.
///
/// Rows that fp32 could not square, or half's range not hold, are first scaled in place by a power of two,
/// which is exact but for elements 2^-14 of the largest (half) or smaller still. So the tile may change:
/// other threads see that after the next barrier. Zero, infinite and NaN rows stay.
template <int threads, Element T, int tile_rows, int tile_columns, class Write>
__device__ __forceinline__ void rescale_and_measure_rows(Tile<T, tile_rows, tile_columns>& tile, int from,
                                                         Write write) {
  detail::for_each_row<threads>(tile, from, [&](const auto& reader, Accumulate<T> squares) {
    // Squares of half do not vanish, so a row whose sum is 0 is one of zeros.
    const bool zero = std::same_as<T, half> && squares == 0;
    const auto norm = detail::rescale_row(reader, squares, !zero && !tile::in_range<T>(squares), 0);
    if (reader.part() == 0) write(reader.row, norm);
  });
}

/// Likewise, of rows that fp32 can square, which stay as they are.
template <int threads, Element T, int tile_rows, int tile_columns, class Write>
__device__ __forceinline__ void measure_rows(Tile<T, tile_rows, tile_columns>& tile, int from, Write write) {
  detail::for_each_row<threads>(tile, from, [&](const auto& reader, Accumulate<T> squares) {
    if (reader.part() == 0) write(reader.row, tile::RowNorm<Accumulate<T>>{squares, 0});
  });
}

/// Likewise of any rows, and upper bounds of the lengths of those whose squares vanish: 0 for zeros alone.
template <int threads, Element T, int tile_rows, int tile_columns, class Write>
__device__ __forceinline__ void bound_norms(Tile<T, tile_rows, tile_columns>& tile, int from, Write write) {
  using A = Accumulate<T>;
  detail::for_each_row<threads>(tile, from, [&](const auto& reader, A squares) {
    tile::RowNorm<A> norm{squares, 0};
    const bool vanishes = squares < A{0x1p-80};
    if (device::any_lane(vanishes)) {
      const A largest = reader.largest();
      if (vanishes && largest > A{0}) norm = {A{tile_columns}, device::exponent_of(largest) + 1};
    }
    if (reader.part() == 0) write(reader.row, norm);
  });
}

/// For rows of b and c that meet in products b c^T, in half: `write(row, length of b, length of c)`. b stays
/// as it is, and c is brought near half the exponent of b's length, so that neither c nor b's product with a
/// row of length 1, over c's scale, leaves half's range. Rows fall to warps as in rescale_and_measure_rows().
template <int threads, int tile_rows, int b_columns, int c_columns, class Write>
__device__ __forceinline__ void rescale_and_measure_pairs(Tile<half, tile_rows, b_columns>& b,
                                                          Tile<half, tile_rows, c_columns>& c, int from,
                                                          Write write) {
  detail::for_each_row<threads>(c, from, [&](const auto& reader, float squares) {
    const tile::RowNorm<float> of_b{detail::sum_sq_of_rows(b, reader.row / 16), 0};
    const int shift = tile::half_exponent(of_b);
    const bool extreme =
        squares != 0.0f && !tile::in_range<half>(device::times_power_of_two(squares, -2 * shift));
    const tile::RowNorm<float> of_c = detail::rescale_row(reader, squares, extreme, shift);
    if (reader.part() == 0) write(reader.row, of_b, of_c);
  });
}

}  // namespace cottention::sm80
