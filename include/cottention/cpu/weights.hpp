// The weights that follow from counts, w = max(n, 1)^-sigmoid(m).
#if !defined(COTTENTION_CPU_WEIGHTS_HPP)
#define COTTENTION_CPU_WEIGHTS_HPP

#include <cmath>
#include <cstdint>

#include <cottention/cpu/simd.hpp>
#include <cottention/element.hpp>

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::cpu::COTTENTION_CPU_TARGET {

namespace detail {

// Adding 1.5 * 2^52 leaves a double's integer part in the low bits of its mantissa.
inline constexpr double integer_shift = 0x1.8p52;
inline constexpr std::int64_t integer_shift_bits = 0x4338000000000000;

/// ln x for x >= 1, to about 1e-12: x = 2^e (1 + t) / (1 - t) with |t| <= 0.1716, and the series of 2 artanh
/// t.
template <class S>
[[gnu::always_inline]] inline typename S::Vector log_vector(typename S::Vector x) {
  using Vector = typename S::Vector;
  using Bits = typename S::Bits;
  const Bits bits = reinterpret_cast<Bits>(x);
  constexpr std::int64_t mantissa = 0xfffffffffffff;
  const Bits m_bits = (bits & mantissa) | 0x3ff0000000000000;
  Vector m = reinterpret_cast<Vector>(m_bits);
  Bits e = (bits >> 52) - 1023;
  const Bits upper = m > 1.4142135623730951;
  m = S::select(upper, m * 0.5, m);
  e -= upper;  // a true lane is -1
  const Bits e_bits = e + integer_shift_bits;
  const Vector exponent = reinterpret_cast<Vector>(e_bits) - integer_shift;
  const Vector t = (m - 1) / (m + 1);
  const Vector s = t * t;
  Vector series = s * (1.0 / 13) + 1.0 / 11;
  series = series * s + 1.0 / 9;
  series = series * s + 1.0 / 7;
  series = series * s + 1.0 / 5;
  series = series * s + 1.0 / 3;
  series = series * s + 1.0;
  return exponent * 0.6931471805599453 + 2 * t * series;
}

/// e^x for -700 <= x <= 0, to about 1e-12: x = k ln 2 + r with |r| <= 0.3466, and the series in r.
template <class S>
[[gnu::always_inline]] inline typename S::Vector exp_vector(typename S::Vector x) {
  using Vector = typename S::Vector;
  using Bits = typename S::Bits;
  const Vector shifted = x * 1.4426950408889634 + integer_shift;
  const Bits k = reinterpret_cast<Bits>(shifted) - integer_shift_bits;
  const Vector r = x - (shifted - integer_shift) * 0.6931471805599453;
  Vector series = r * (1.0 / 3628800) + 1.0 / 362880;
  series = series * r + 1.0 / 40320;
  series = series * r + 1.0 / 5040;
  series = series * r + 1.0 / 720;
  series = series * r + 1.0 / 120;
  series = series * r + 1.0 / 24;
  series = series * r + 1.0 / 6;
  series = series * r + 0.5;
  series = series * r + 1.0;
  series = series * r + 1.0;
  const Bits power = (k + 1023) << 52;
  return series * reinterpret_cast<Vector>(power);
}

}  // namespace detail

/// weight[r] = max(n[r], 1)^-exponent for r < count. Both arrays are readable and writable up to `count`
/// rounded up to the vector length.
template <class A, int vector_bytes>
void weights_of_counts(const double* n, int count, double exponent, A* weight) {
  if constexpr (std::is_same_v<A, double>) {
    for (int r = 0; r < count; ++r) weight[r] = std::pow(n[r] > 1 ? n[r] : 1, -exponent);
  } else {
    using S = Simd<double, vector_bytes>;
    for (int r = 0; r < count; r += S::lanes) {
      const auto x = S::load(n + r);
      const auto at_least_one = S::select(x > 1, x, S::splat(1));
      const auto w = detail::exp_vector<S>(detail::log_vector<S>(at_least_one) * -exponent);
      typedef A Narrow __attribute__((vector_size(S::lanes * sizeof(A))));
      const Narrow narrow = __builtin_convertvector(w, Narrow);
      std::memcpy(weight + r, &narrow, sizeof narrow);
    }
  }
}

}  // namespace cottention::cpu::COTTENTION_CPU_TARGET

#if defined(__clang__)
#pragma float_control(pop)
#endif

#endif
