// The L2 norm of a row, and the norms of rows in global memory.
#pragma once

#include <concepts>
#include <cstdint>

#include <cottention/device/convert.cuh>
#include <cottention/device/math.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/problem.hpp>
#include <cottention/tile/over_warp.cuh>

namespace cottention::tile {

/// The L2 norm of a row x that is kept as y = 2^-exponent x, and what follows from it; eps is norm_epsilon. A
/// NaN in the row makes sum_sq and all results NaN.
template <class A>
struct RowNorm {
  A sum_sq;  // ||y||^2
  int exponent;

  /// The factor of norm(x) = rnorm() y = x / max(||x||, eps).
  __device__ __forceinline__ A rnorm() const {
    if (in_fast_range()) return inverse_root();
    // norm(x) of a row of zeros is 0 with any factor. 1 keeps what else the factor multiplies in half's
    // range; 1 / eps would not.
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
  /// Whether ||x|| <= eps, where norm(x) = x / eps is linear.
  __device__ __forceinline__ bool clamped() const {
    return !in_fast_range() && device::sqrt_rn(sum_sq) <= scaled_eps();
  }

 private:
  /// Whether rsqrt() gives the result: in fp32, with ||y|| in [2^-20, 2^20], within the range of rsqrt(), and
  /// ||x|| >= 2^-36, which is above eps, about 2^-40.
  __device__ __forceinline__ bool in_fast_range() const {
    return sizeof(A) == 4 && sum_sq >= A{0x1p-40} && sum_sq <= A{0x1p40} && exponent >= -16;
  }
  __device__ __forceinline__ A inverse_root() const {
    if constexpr (sizeof(A) == 4)
      return device::rsqrt(sum_sq);
    else
      return A{};  // never in_fast_range()
  }
  /// 2^-exponent eps, the bound of ||y||.
  __device__ __forceinline__ A scaled_eps() const {
    return device::times_power_of_two(static_cast<A>(norm_epsilon), -exponent);
  }
  __device__ __forceinline__ A divisor() const { return clamped() ? scaled_eps() : device::sqrt_rn(sum_sq); }
};

/// An upper bound of the norm of a row of `width` elements whose largest magnitude, not 0, is `largest`. It
/// is at least 2^-60: no weight of a position makes it vanish.
template <class A>
__device__ __forceinline__ RowNorm<A> norm_bound(int width, A largest) {
  const int exponent = device::exponent_of(largest) + 1;
  return {static_cast<A>(width), exponent < -60 ? -60 : exponent};
}

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

/// Element e of a vector, widened.
template <Element T>
__device__ __forceinline__ Accumulate<T> element(const Vec<T>& x, int e) {
  if constexpr (sizeof(T) == 2) {
    const auto pairs = device::bits_as<device::Vector<std::uint32_t, 4>>(x);  // one register for two elements
    return e % 2 == 0 ? device::unpack_low<T>(pairs[e / 2]) : device::unpack_high<T>(pairs[e / 2]);
  } else {
    return x[e];
  }
}

/// Whether a sum of squares is of normal fp32 (fp64) numbers, far from overflow and underflow, and the
/// products of two such rows are so too: ||x|| in [2^-20, 2^20], for fp64 [2^-200, 2^200]. For half, [1,
/// 2^6]: products of two rows of up to 2^6 stay below 2^12, within half's range of 65,504.
template <Element T>
__device__ __forceinline__ bool in_range(Accumulate<T> squares) {
  if constexpr (std::same_as<T, half>)
    return squares >= 1.0f && squares <= 0x1p12f;
  else if constexpr (std::same_as<T, double>)
    return squares >= 0x1p-400 && squares <= 0x1p400;
  else
    return squares >= 0x1p-40f && squares <= 0x1p40f;
}

/// Half the exponent of a row's norm, a quarter of that of its square; 0 for zero and infinite rows. For
/// half.
__device__ __forceinline__ int half_exponent(const RowNorm<float>& norm) {
  return norm.sum_sq > 0.0f && device::is_finite(norm.sum_sq) ? device::exponent_of(norm.sum_sq) / 4 : 0;
}

/// f(vec, column) for the vectors of a row (width) in global memory that a lane reads: each is read by one
/// lane of the warp.
template <class Vec, class T, class F>
__device__ __forceinline__ void for_each_vec(const T* row, int width, F f) {
  constexpr int vec_size = static_cast<int>(sizeof(Vec) / sizeof(T));
  for (int c = device::lane_index() * vec_size; c < width; c += device::warp_size * vec_size)
    f(device::load_global(reinterpret_cast<const Vec*>(row + c)), c);
}

/// The norm of a row (width) in global memory, in all lanes; exponent is not 0 where sum_sq would leave
/// in_range(), and then for half less by `shift`. Scope: warp; barriers inside: 0.
template <Element T>
__device__ __forceinline__ RowNorm<Accumulate<T>> measure_global_row(const T* row, int width, int shift = 0) {
  using A = Accumulate<T>;
  using Vec = Vec<T>;
  constexpr int vec_size = 16 / static_cast<int>(sizeof(T));
  const auto over_row = [&](A start, auto combine) {
    for_each_vec<Vec>(row, width, [&](const Vec& x, int) {
#pragma unroll
      for (int e = 0; e < vec_size; ++e) start = combine(start, element<T>(x, e));
    });
    return start;
  };
  const A squares = sum_over_warp(over_row(A{}, [](A sum, A x) { return device::fma(x, x, sum); }));
  if (in_range<T>(device::times_power_of_two(squares, -2 * shift))) return {squares, 0};
  A largest = over_row(A{}, [](A max, A x) {
    const A magnitude = device::magnitude(x);
    return !device::is_finite(magnitude) ? infinity<A>() : magnitude > max ? magnitude : max;
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

}  // namespace cottention::tile
