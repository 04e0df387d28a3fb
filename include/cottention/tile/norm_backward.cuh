// Backward through the norm: the gradient with respect to x from d, that with respect to norm(x),
//
//     dx = (d - x^ (x^ . d)) / max(||x||, eps)          x^ = norm(x)
//
// where the part along x^ stays if ||x|| <= eps, since norm(x) is linear there. With x as memory has it,
//
//     dx = scale (d - slope (x . d) x)
#pragma once

#include <cottention/device/math.cuh>
#include <cottention/tile/row_norm.cuh>

namespace cottention::tile {

/// The factors of a row, which memory holds as a vector.
template <class A>
struct alignas(2 * sizeof(A)) NormBackward {
  A scale;  // 1 / max(||x||, eps), and a factor that d lacks
  A slope;  // rnorm^2, or 0 where ||x|| <= eps

  /// `rnorm`: that of `norm`.
  static __device__ __forceinline__ NormBackward of(const RowNorm<A>& norm, A rnorm, A factor = A{1}) {
    return {norm.inverse() * factor, norm.clamped() ? A{0} : rnorm * rnorm};
  }
  /// What x is multiplied by in dx. `product`: x . d.
  __device__ __forceinline__ A along(A product) const { return slope == A{0} ? A{0} : slope * product; }
  /// An element of dx from those of d and x.
  __device__ __forceinline__ A operator()(A d, A x, A along) const {
    return device::fma(-along, x, d) * scale;
  }
};

}  // namespace cottention::tile
