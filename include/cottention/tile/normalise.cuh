// norm(x) of rows that lie in registers.
#pragma once

#include <cottention/device/math.cuh>
#include <cottention/device/warp.cuh>
#include <cottention/tile/row_norm.cuh>

namespace cottention::tile {
namespace detail {

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

/// The exponent of the largest element; 0 for rows of zeros and where one is infinite. NaN does not count.
template <int lanes, class A, int count>
__device__ __forceinline__ int largest_exponent(const A (&x)[count]) {
  A largest{};
  for (int i = 0; i < count; ++i) {
    const A here = device::magnitude(x[i]);
    largest = here > largest ? here : largest;
  }
  for (int distance = 1; distance < lanes; distance *= 2) {
    const A other = device::shuffle_xor(largest, distance);
    largest = other > largest ? other : largest;
  }
  return largest > A{0} && device::is_finite(largest) ? device::exponent_of(largest) : 0;
}

}  // namespace detail

/// Turns a row, spread over `lanes` neighbouring lanes of a warp, into x / max(||x||, 1e-12). The order of
/// the sum follows from `lanes` and `count` alone. Rows whose squares overflow are scaled by a power of two
/// first. A row with an infinity or a NaN becomes NaN there. All lanes of the warp must take part.
template <int lanes, class A, int count>
__device__ __forceinline__ void normalise(A (&x)[count]) {
  static_assert(lanes <= device::warp_size && (lanes & (lanes - 1)) == 0);
  A squares = detail::sum_of_squares<lanes>(x);
  int exponent = 0;
  const bool fits = device::is_finite(squares);
  if (device::any_lane(!fits)) {
    const int largest = detail::largest_exponent<lanes>(x);
    if (!fits) exponent = largest;  // the warp's other rows stay as they are
    for (int i = 0; i < count; ++i) x[i] = device::times_power_of_two(x[i], -exponent);
    squares = detail::sum_of_squares<lanes>(x);
  }
  const A factor = RowNorm<A>{squares, exponent}.rnorm();
#pragma unroll
  for (int i = 0; i < count; ++i) x[i] = device::mul_rn(x[i], factor);
}

}  // namespace cottention::tile
