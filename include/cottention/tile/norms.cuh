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
#include <cottention/tile/layout.cuh>
#include <cottention/tile/over_warp.cuh>
#include <cottention/tile/rows.cuh>

namespace cottention::tile {

/// The length of a row x that is kept as y = 2^-exponent x. NaN stays.
template <class A>
struct RowNorm {
  A sum_sq;  // of y
  int exponent;

  /// norm(x) = unit() y = x / max(||x||, eps).
  __device__ __forceinline__ A rnorm() const {
    if (in_fast_range()) return inverse_root();
    // A row of zeros is its own norm(x). 1 keeps what the factor multiplies in half's range, 1e12 does not.
    return sum_sq == A{0} ? A{1} : device::div_rn(A{1}, divisor());
  }
  /// 1 / max(||x||, eps).
  __device__ __forceinline__ A inverse() const {
    if (in_fast_range() && exponent == 0) return inverse_root();
    return device::times_power_of_two(device::div_rn(A{1}, divisor()), -exponent);
  }
  /// ||x||.
  __device__ __forceinline__ A norm() const {
    if (in_fast_range() && exponent == 0) return sum_sq * inverse_root();
    return device::times_power_of_two(device::sqrt_rn(sum_sq), exponent);
  }
  /// ||x|| <= eps, where norm(x) is linear.
  __device__ __forceinline__ bool clamped() const {
    return !in_fast_range() && device::sqrt_rn(sum_sq) <= floor();
  }

 private:
  /// Of fp32, and far from eps and the ends of its range, where a few instructions serve.
  __device__ __forceinline__ bool in_fast_range() const {
    return sizeof(A) == 4 && sum_sq >= A{0x1p-40} && sum_sq <= A{0x1p40} && exponent >= -16;
  }
  __device__ __forceinline__ A inverse_root() const {
    if constexpr (sizeof(A) == 4)
      return device::rsqrt(sum_sq);
    else
      return A{};  // never in_fast_range()
  }
  __device__ __forceinline__ A floor() const {
    return device::times_power_of_two(static_cast<A>(norm_epsilon), -exponent);
  }
  __device__ __forceinline__ A divisor() const { return clamped() ? floor() : device::sqrt_rn(sum_sq); }
};

namespace detail {

/// 16 bytes of a row.
template <Element T>
using Vec = device::Vector<T, 16 / static_cast<int>(sizeof(T))>;

template <class A>
__device__ __forceinline__ A infinity() {
  if constexpr (sizeof(A) == 4)
    return device::bits_as<float>(0x7f800000u);
  else
    return device::bits_as<double>(std::uint64_t{0x7ff0000000000000});
}

/// Element e of a unit.
template <Element T>
__device__ __forceinline__ Accumulate<T> element(const Vec<T>& x, int e) {
  if constexpr (sizeof(T) == 2) {
    const auto pairs = device::bits_as<device::Vector<std::uint32_t, 4>>(x);  // not taken apart into halves
    return e % 2 == 0 ? device::unpack_low<T>(pairs[e / 2]) : device::unpack_high<T>(pairs[e / 2]);
  } else {
    return x[e];
  }
}

/// Largest power of two up to x.
__host__ __device__ constexpr int power_of_two_below(int x) {
  int p = 1;
  while (2 * p <= x) p *= 2;
  return p;
}

/// Sums of squares within these bounds have lost nothing to the range of A, and products of two such rows
/// have room in it, for half in half's.
template <Element T>
__device__ __forceinline__ bool in_range(Accumulate<T> squares) {
  if constexpr (std::same_as<T, half>)
    return squares >= 1.0f && squares <= 0x1p12f;
  else if constexpr (std::same_as<T, double>)
    return squares >= 0x1p-400 && squares <= 0x1p400;
  else
    return squares >= 0x1p-40f && squares <= 0x1p40f;
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
  __device__ __forceinline__ Vec<T>* vec(int round) const {
    const int u = vec_of(part(), round);
    const bool exists = vecs_in_rounds == Source::vecs || u < Source::vecs;
    return exists ? reinterpret_cast<Vec<T>*>(tile.at(row, u * Source::vec_size)) : nullptr;
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
      const Vec<T>* at = vec(round);
      if (at == nullptr) continue;
      const Vec<T> x = device::load_shared(at);
#pragma unroll
      for (int e = 0; e < Source::vec_size; ++e) sum = device::fma(element<T>(x, e), element<T>(x, e), sum);
    }
    return sum_over_row(sum);
  }

  /// The largest magnitude of the row; infinite where an element is not finite.
  __device__ __forceinline__ A largest() const {
    A most{};
#pragma unroll 1
    for (int round = 0; round < rounds; ++round) {
      const Vec<T>* at = vec(round);
      if (at == nullptr) continue;
      const Vec<T> x = device::load_shared(at);
#pragma unroll
      for (int e = 0; e < Source::vec_size; ++e) {
        const A size = device::magnitude(device::widen<T>(x[e]));
        most = !device::is_finite(size) ? infinity<A>() : size > most ? size : most;
      }
    }
    return over_row(most, [](A a, A b) { return a < b ? b : a; });
  }

  /// Divides the row by 2^exponent, and returns the sum of its squares then.
  __device__ __forceinline__ A rescale(int exponent) const {
    A sum{};
#pragma unroll 1
    for (int round = 0; round < rounds; ++round) {
      Vec<T>* at = vec(round);
      if (at == nullptr) continue;
      Vec<T> x = device::load_shared(at);
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
__device__ __forceinline__ RowNorm<A> rescale_row(const Reader& reader, A squares, bool extreme, int shift) {
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
    const auto norm = detail::rescale_row(reader, squares, !zero && !detail::in_range<T>(squares), 0);
    if (reader.part() == 0) write(reader.row, norm);
  });
}

/// Likewise, of rows that fp32 can square, which stay as they are.
template <int threads, Element T, int tile_rows, int tile_columns, class Write>
__device__ __forceinline__ void measure_rows(Tile<T, tile_rows, tile_columns>& tile, int from, Write write) {
  detail::for_each_row<threads>(tile, from, [&](const auto& reader, Accumulate<T> squares) {
    if (reader.part() == 0) write(reader.row, RowNorm<Accumulate<T>>{squares, 0});
  });
}

/// Likewise of any rows, and upper bounds of the lengths of those whose squares vanish: 0 for zeros alone.
template <int threads, Element T, int tile_rows, int tile_columns, class Write>
__device__ __forceinline__ void bound_norms(Tile<T, tile_rows, tile_columns>& tile, int from, Write write) {
  using A = Accumulate<T>;
  detail::for_each_row<threads>(tile, from, [&](const auto& reader, A squares) {
    RowNorm<A> norm{squares, 0};
    const bool vanishes = squares < A{0x1p-80};
    if (device::any_lane(vanishes)) {
      const A largest = reader.largest();
      if (vanishes && largest > A{0}) norm = {A{tile_columns}, device::exponent_of(largest) + 1};
    }
    if (reader.part() == 0) write(reader.row, norm);
  });
}

/// In half: half the exponent of a row's length.
__device__ __forceinline__ int half_exponent(const RowNorm<float>& norm) {
  return norm.sum_sq > 0.0f && device::is_finite(norm.sum_sq) ? device::exponent_of(norm.sum_sq) / 4 : 0;
}

/// For rows of b and c that meet in products b c^T, in half: `write(row, length of b, length of c)`. b stays
/// as it is, and c is brought near half the exponent of b's length, so that neither c nor b's product with a
/// row of length 1, over c's scale, leaves half's range. Rows fall to warps as in rescale_and_measure_rows().
template <int threads, int tile_rows, int b_columns, int c_columns, class Write>
__device__ __forceinline__ void rescale_and_measure_pairs(Tile<half, tile_rows, b_columns>& b,
                                                          Tile<half, tile_rows, c_columns>& c, int from,
                                                          Write write) {
  detail::for_each_row<threads>(c, from, [&](const auto& reader, float squares) {
    const RowNorm<float> of_b{detail::sum_sq_of_rows(b, reader.row / 16), 0};
    const int shift = half_exponent(of_b);
    const bool extreme =
        squares != 0.0f && !detail::in_range<half>(device::times_power_of_two(squares, -2 * shift));
    const RowNorm<float> of_c = detail::rescale_row(reader, squares, extreme, shift);
    if (reader.part() == 0) write(reader.row, of_b, of_c);
  });
}

/// Calls f with the vecs of a row of memory, `width` long, that fall to a lane, and their columns. By a
/// whole warp.
template <class Vec, class T, class F>
__device__ __forceinline__ void for_each_vec(const T* row, int width, F f) {
  constexpr int vec_size = static_cast<int>(sizeof(Vec) / sizeof(T));
  for (int c = device::lane_index() * vec_size; c < width; c += device::warp_size * vec_size)
    f(device::load_global(reinterpret_cast<const Vec*>(row + c)), c);
}

/// The length of a row of memory, as rescale_row() has it of one in a tile; the same in all lanes of the
/// warp.
template <Element T>
__device__ __forceinline__ RowNorm<Accumulate<T>> measure_global_row(const T* row, int width, int shift = 0) {
  using A = Accumulate<T>;
  using Vec = detail::Vec<T>;
  constexpr int vec_size = 16 / static_cast<int>(sizeof(T));
  const auto over_row = [&](A start, auto take) {
    for_each_vec<Vec>(row, width, [&](const Vec& x, int) {
#pragma unroll
      for (int e = 0; e < vec_size; ++e) start = take(start, detail::element<T>(x, e));
    });
    return start;
  };
  const A squares = sum_over_warp(over_row(A{}, [](A sum, A x) { return device::fma(x, x, sum); }));
  if (detail::in_range<T>(device::times_power_of_two(squares, -2 * shift))) return {squares, 0};
  A largest = over_row(A{}, [](A most, A x) {
    const A size = device::magnitude(x);
    return !device::is_finite(size) ? detail::infinity<A>() : size > most ? size : most;
  });
  largest = max_over_warp(largest);
  if (!(largest > A{0}) || !device::is_finite(largest)) return {squares, 0};
  const int exponent = device::exponent_of(largest) - shift;
  return {sum_over_warp(over_row(A{},
                                 [exponent](A sum, A x) {
                                   const A y = device::times_power_of_two(x, -exponent);
                                   return device::fma(y, y, sum);
                                 })),
          exponent};
}

/// Likewise for rows that the tile holds only some columns of: rows first, ... of `rows`, `width` long, each
/// read whole from memory by a warp. A row that is scaled is so in the tile, for half by 2^shift(row) too.
template <int threads, Element T, int tile_rows, int tile_columns, class Shift, class Write>
__device__ __forceinline__ void rescale_and_measure_global_rows(const Rows<const T>& rows, int first,
                                                                int width,
                                                                Tile<T, tile_rows, tile_columns>& tile,
                                                                [[maybe_unused]] Shift shift, Write write) {
  using A = Accumulate<T>;
  using Vec = detail::Vec<T>;
  using Target = Tile<T, tile_rows, tile_columns>;
  for (int row = device::warp_index(); row < tile_rows; row += threads / device::warp_size) {
    RowNorm<A> norm{};
    // Lane 0 alone reads what it may write over.
    int by = 0;
    if constexpr (std::same_as<T, half>) by = device::shuffle(device::lane_index() == 0 ? shift(row) : 0, 0);
    if (rows.contains(first + row)) norm = measure_global_row(rows.row(first + row), width, by);
    if (norm.exponent != 0)
      for (int c = device::lane_index() * Target::vec_size; c < Target::vecs * Target::vec_size;
           c += device::warp_size * Target::vec_size) {
        Vec* at = reinterpret_cast<Vec*>(tile.at(row, c));
        Vec x = device::load_shared(at);
#pragma unroll
        for (int e = 0; e < Target::vec_size; ++e)
          x[e] = device::narrow<T>(device::times_power_of_two(device::widen<T>(x[e]), -norm.exponent));
        device::store_shared(at, x);
      }
    if (device::lane_index() == 0) write(row, norm);
  }
}

}  // namespace cottention::tile
