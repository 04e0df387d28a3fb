// The L2 norm of a row, and rows of global memory that a warp measures.
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

/// In half: half the exponent of a row's length.
__device__ __forceinline__ int half_exponent(const RowNorm<float>& norm) {
  return norm.sum_sq > 0.0f && device::is_finite(norm.sum_sq) ? device::exponent_of(norm.sum_sq) / 4 : 0;
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
  using Vec = Vec<T>;
  constexpr int vec_size = 16 / static_cast<int>(sizeof(T));
  const auto over_row = [&](A start, auto take) {
    for_each_vec<Vec>(row, width, [&](const Vec& x, int) {
#pragma unroll
      for (int e = 0; e < vec_size; ++e) start = take(start, element<T>(x, e));
    });
    return start;
  };
  const A squares = sum_over_warp(over_row(A{}, [](A sum, A x) { return device::fma(x, x, sum); }));
  if (in_range<T>(device::times_power_of_two(squares, -2 * shift))) return {squares, 0};
  A largest = over_row(A{}, [](A most, A x) {
    const A size = device::magnitude(x);
    return !device::is_finite(size) ? infinity<A>() : size > most ? size : most;
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
