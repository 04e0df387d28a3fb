// norm(x) of rows in registers.
#pragma once

#include <cottention/device/math.cuh>
#include <cottention/device/warp.cuh>
#include <cottention/tile/row_norm.cuh>

namespace cottention::tile {
namespace detail {

/// ||x||^2 of the row, in each of its lanes. Scope: warp; barriers inside: 0.
template <int lanes, class A, int count>
__device__ __forceinline__ A sum_of_squares(const A (&x)[count]) {
  A squares{};
#pragma unroll
  for (int i = 0; i < count; ++i) squares = device::fma(x[i], x[i], squares);
#pragma unroll
  for (int distance = 1; distance < lanes; distance *= 2)
    squares = device::add_rn(squares, device::shuffle_xor(squares, distance));
  return squares;
}

/// The exponent of the row's largest element, NaN left out; 0 for rows of zeros and rows with an infinity.
/// Scope: warp; barriers inside: 0.
template <int lanes, class A, int count>
__device__ __forceinline__ int largest_exponent(const A (&x)[count]) {
  A largest{};
  for (int i = 0; i < count; ++i) {
    const A magnitude = device::magnitude(x[i]);
    largest = magnitude > largest ? magnitude : largest;
  }
  for (int distance = 1; distance < lanes; distance *= 2) {
    const A other = device::shuffle_xor(largest, distance);
    largest = other > largest ? other : largest;
  }
  return largest > A{0} && device::is_finite(largest) ? device::exponent_of(largest) : 0;
}

}  // namespace detail

/// x becomes x / max(||x||, 1e-12) for a row x (lanes * count) that `lanes` neighbouring lanes hold, `count`
/// elements each. The order of the sum follows from `lanes` and `count` alone. Rows whose squares overflow
/// are scaled by a power of two first. A NaN makes the whole row NaN; an infinity becomes NaN, and the finite
/// elements of its row 0. Scope: warp; barriers inside: 0.
template <int lanes, class A, int count>
__device__ __forceinline__ void normalise(A (&x)[count]) {
  static_assert(lanes <= device::warp_size && (lanes & (lanes - 1)) == 0);
  A squares = detail::sum_of_squares<lanes>(x);
  int exponent = 0;
  const bool fits = device::is_finite(squares);
  if (device::any_lane(!fits)) {
    const int largest = detail::largest_exponent<lanes>(x);
    if (!fits) exponent = largest;  // other rows of the warp are not scaled
    for (int i = 0; i < count; ++i) x[i] = device::times_power_of_two(x[i], -exponent);
    squares = detail::sum_of_squares<lanes>(x);
  }
  const A factor = RowNorm<A>{squares, exponent}.rnorm();
#pragma unroll
  for (int i = 0; i < count; ++i) x[i] = device::mul_rn(x[i], factor);
}

}  // namespace cottention::tile
