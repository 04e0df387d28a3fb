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

namespace cottention::tile {
namespace detail {

/// 16 bytes of a row.
template <Element T>
using Unit = device::Vector<T, 16 / static_cast<int>(sizeof(T))>;

template <class A>
__device__ __forceinline__ A infinity() {
  if constexpr (sizeof(A) == 4)
    return device::bits_as<float>(0x7f800000u);
  else
    return device::bits_as<double>(std::uint64_t{0x7ff0000000000000});
}

/// Largest power of two up to x.
__host__ __device__ constexpr int power_of_two_below(int x) {
  int p = 1;
  while (2 * p <= x) p *= 2;
  return p;
}

/// Sums of squares within these bounds have lost nothing to the range of A, and products of two such rows
/// have room in it. Rows of half are always brought to a largest element in [1, 2): then what is made of them
/// stays within half's narrow range.
template <Element T>
__device__ __forceinline__ bool in_range(Accumulate<T> squares) {
  if constexpr (std::same_as<T, half>)
    return false;
  else if constexpr (std::same_as<T, double>)
    return squares >= 0x1p-800 && squares <= 0x1p800;
  else
    return squares >= 0x1p-80f && squares <= 0x1p80f;
}

/// 1 / max(||x||, eps) where x = 2^exponent y, times 2^exponent: what turns y into norm(x). NaN stays.
template <class A>
__device__ __forceinline__ A inverse_norm(A squares_of_y, int exponent) {
  const A floor = device::times_power_of_two(static_cast<A>(norm_epsilon), -exponent);
  const A norm = device::square_root(squares_of_y);
  return device::quotient(A{1}, norm <= floor ? floor : norm);
}

}  // namespace detail

/// For each row x of `tile`, `write(row, f)` once, with f such that f x = norm(x) = x / max(||x||, 1e-12).
///
/// Rows that fp32 could not square, or half's range not hold, are first scaled in place by a power of two,
/// which is exact but for elements 2^-14 of the largest (half) or smaller still. So the tile may change:
/// other threads see that after the next barrier. Zero, infinite and NaN rows stay.
template <int threads, Element T, int tile_rows, int tile_columns, class Write>
__device__ __forceinline__ void measure_rows(Tile<T, tile_rows, tile_columns>& tile, Write write) {
  using Source = Tile<T, tile_rows, tile_columns>;
  using Unit = detail::Unit<T>;
  using A = Accumulate<T>;
  // Lanes that share a row are neighbours in a warp; warps come in whole or not at all.
  constexpr int whole = threads / tile_rows < 1 ? 1 : threads / tile_rows;
  constexpr int sharing = detail::power_of_two_below(whole < 32 ? whole : 32);
  constexpr int at_once = threads / sharing;
  static_assert(tile_rows * sharing % 32 == 0 && at_once * sharing % 32 == 0);
  const int part = device::thread_index() % sharing;
  const auto sum_over_row = [](A x) {
#pragma unroll
    for (int distance = 1; distance < sharing; distance *= 2) x += device::shuffle_xor(x, distance);
    return x;
  };
  const auto largest_in_row = [](A x) {
#pragma unroll
    for (int distance = 1; distance < sharing; distance *= 2) {
      const A other = device::shuffle_xor(x, distance);
      x = x < other ? other : x;
    }
    return x;
  };
  for (int row = device::thread_index() / sharing; row < tile_rows; row += at_once) {
    const auto unit_at = [&tile, row](int u) {
      return reinterpret_cast<Unit*>(tile.at(row, u * Source::unit));
    };
    A squares{};
#pragma unroll
    for (int u = part; u < Source::units; u += sharing) {
      const Unit unit = device::load_shared(unit_at(u));
#pragma unroll
      for (int e = 0; e < Source::unit; ++e) {
        const A x = device::widen<T>(unit[e]);
        squares = device::fused(x, x, squares);
      }
    }
    squares = sum_over_row(squares);
    int exponent = 0;
    if (device::any_lane(!detail::in_range<T>(squares))) {
      A largest{};
      bool finite = true;
      for (int u = part; u < Source::units; u += sharing) {
        const Unit unit = device::load_shared(unit_at(u));
#pragma unroll
        for (int e = 0; e < Source::unit; ++e) {
          const A x = device::magnitude(device::widen<T>(unit[e]));
          finite = finite && device::is_finite(x);
          largest = x > largest ? x : largest;
        }
      }
      largest = largest_in_row(finite ? largest : detail::infinity<A>());
      if (!detail::in_range<T>(squares) && largest > A{0} && device::is_finite(largest))
        exponent = device::exponent_of(largest);
      A scaled_squares{};
      for (int u = part; u < Source::units; u += sharing) {
        Unit unit = device::load_shared(unit_at(u));
#pragma unroll
        for (int e = 0; e < Source::unit; ++e) {
          const A x = device::times_power_of_two(device::widen<T>(unit[e]), -exponent);
          unit[e] = device::narrow<T>(x);
          scaled_squares = device::fused(x, x, scaled_squares);
        }
        if (exponent != 0) device::store_shared(unit_at(u), unit);
      }
      squares = sum_over_row(scaled_squares);
    }
    if (part == 0) write(row, detail::inverse_norm(squares, exponent));
  }
}

}  // namespace cottention::tile
