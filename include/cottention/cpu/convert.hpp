// Vectors of elements in memory, widened to what the arithmetic is done in and narrowed back.
#if !defined(COTTENTION_CPU_CONVERT_HPP)
#define COTTENTION_CPU_CONVERT_HPP

#include <cottention/cpu/simd.hpp>
#include <cottention/element.hpp>

#if COTTENTION_CPU_F16C || COTTENTION_CPU_VECTOR_BYTES == 64
#include <immintrin.h>
#endif

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::cpu::COTTENTION_CPU_TARGET {

#if !defined(__NVCC__)  // whose front end knows no vectors of a size that follows from a template's argument

namespace detail {

template <int lanes>
using Words __attribute__((vector_size(lanes * 2))) = std::uint16_t;
template <int lanes>
using Singles __attribute__((vector_size(lanes * 4))) = float;
template <int lanes>
using SingleBits __attribute__((vector_size(lanes * 4))) = std::uint32_t;

// Comparisons and sums are named before they are reinterpreted: in templates, nvcc's front end does not know
// their type.
template <int lanes>
using SingleMask __attribute__((vector_size(lanes * 4))) = std::int32_t;

template <int lanes>
[[gnu::always_inline]] inline SingleBits<lanes> choose(SingleMask<lanes> where, SingleBits<lanes> yes,
                                                       SingleBits<lanes> no) {
  const SingleBits<lanes> mask = reinterpret_cast<SingleBits<lanes>>(where);
  return (mask & yes) | (~mask & no);
}

#if COTTENTION_CPU_VECTOR_BYTES == 64
// The unmasked intrinsics read an uninitialised operand in GCC's headers, which warns (GCC bug 105593).
inline constexpr __mmask16 every_lane = 0xffff;
#endif

/// half::widen for a vector. The conversion instructions are used where the target has them.
template <int lanes>
[[gnu::always_inline]] inline Singles<lanes> widen_half(Words<lanes> words) {
#if COTTENTION_CPU_VECTOR_BYTES == 64
  if constexpr (lanes == 16)
    return reinterpret_cast<Singles<lanes>>(
        _mm512_maskz_cvtph_ps(every_lane, reinterpret_cast<__m256i>(words)));
#endif
#if COTTENTION_CPU_F16C
  if constexpr (lanes == 8)
    return reinterpret_cast<Singles<lanes>>(_mm256_cvtph_ps(reinterpret_cast<__m128i>(words)));
#endif
  using Bits = SingleBits<lanes>;
  const Bits wide = __builtin_convertvector(words, Bits);
  const Bits sign = (wide & 0x8000u) << 16;
  const Bits magnitude = wide & 0x7fffu;
  const Singles<lanes> steps = __builtin_convertvector(magnitude, Singles<lanes>) * 0x1p-24f;
  const Bits value =
      choose<lanes>(magnitude < 0x400u, reinterpret_cast<Bits>(steps), (magnitude << 13) + (112u << 23));
  const Bits special = 0x7f800000u | (magnitude & 0x3ffu) << 13;
  const Bits wide_bits = sign | choose<lanes>(magnitude >= 0x7c00u, special, value);
  return reinterpret_cast<Singles<lanes>>(wide_bits);
}

/// half::round for a vector.
template <int lanes>
[[gnu::always_inline]] inline Words<lanes> round_half(Singles<lanes> x) {
#if COTTENTION_CPU_VECTOR_BYTES == 64
  if constexpr (lanes == 16)
    return reinterpret_cast<Words<lanes>>(_mm512_maskz_cvtps_ph(
        every_lane, reinterpret_cast<__m512>(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#endif
#if COTTENTION_CPU_F16C
  if constexpr (lanes == 8)
    return reinterpret_cast<Words<lanes>>(
        _mm256_cvtps_ph(reinterpret_cast<__m256>(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#endif
  using Bits = SingleBits<lanes>;
  const Bits u = reinterpret_cast<Bits>(x);
  const Bits sign = u >> 16 & 0x8000u;
  const Bits magnitude = u & 0x7fffffffu;
  const Singles<lanes> sum = reinterpret_cast<Singles<lanes>>(magnitude) + 0.5f;
  const Bits shifted = reinterpret_cast<Bits>(sum) - 0x3f000000u;
  const Bits rounded = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  Bits out = choose<lanes>(magnitude < 0x38800000u, shifted, rounded);
  out = choose<lanes>(magnitude >= 0x477ff000u, Bits{} + 0x7c00u, out);
  out = choose<lanes>(magnitude > 0x7f800000u, Bits{} + 0x7e00u, out);
  return __builtin_convertvector(sign | out, Words<lanes>);
}

template <int lanes>
[[gnu::always_inline]] inline Singles<lanes> widen_bfloat16(Words<lanes> words) {
  using Bits = SingleBits<lanes>;
  const Bits wide = __builtin_convertvector(words, Bits) << 16;
  return reinterpret_cast<Singles<lanes>>(wide);
}

/// bfloat16::round for a vector.
template <int lanes>
[[gnu::always_inline]] inline Words<lanes> round_bfloat16(Singles<lanes> x) {
  using Bits = SingleBits<lanes>;
  const Bits u = reinterpret_cast<Bits>(x);
  const Bits rounded = (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
  const Bits quiet = u >> 16 | 0x40u;
  const SingleMask<lanes> is_nan = (u & 0x7fffffffu) > 0x7f800000u;
  return __builtin_convertvector(choose<lanes>(is_nan, quiet, rounded), Words<lanes>);
}

}  // namespace detail

#endif

/// S::lanes elements at p, widened.
template <class S, Element T>
[[gnu::always_inline]] inline typename S::Vector load_widened(const T* p) {
  if constexpr (std::is_same_v<T, half> || std::is_same_v<T, bfloat16>) {
#if defined(__NVCC__)
    typename S::Vector wide;
    for (int i = 0; i < S::lanes; ++i) wide[i] = static_cast<float>(p[i]);
    return wide;
#else
    detail::Words<S::lanes> words;
    std::memcpy(&words, p, sizeof words);
    if constexpr (std::is_same_v<T, half>)
      return detail::widen_half<S::lanes>(words);
    else
      return detail::widen_bfloat16<S::lanes>(words);
#endif
  } else {
    return S::load(p);
  }
}

/// Where the last vector of a row of `dim` elements begins. It shares elements with the one before where dim
/// is no multiple of S::lanes, so that no row has a tail, and nothing past its end is read or written.
template <class S>
constexpr std::ptrdiff_t first_of_last(std::ptrdiff_t dim) {
  return dim > S::lanes ? dim - S::lanes : 0;
}

/// The last vector of a row, widened; zeros follow a row of fewer elements.
template <class S, Element T>
[[gnu::always_inline]] inline typename S::Vector load_last(const T* row, std::ptrdiff_t dim) {
  if (dim >= S::lanes) return load_widened<S>(row + dim - S::lanes);
  T buffer[S::lanes] = {};
  detail::copy_part<S::lanes>(buffer, row, dim);
  return load_widened<S>(buffer);
}

/// Rounds to nearest even and stores S::lanes elements.
template <class S, Element T>
[[gnu::always_inline]] inline void store_narrowed(T* p, typename S::Vector x) {
#if defined(__NVCC__)
  if constexpr (std::is_same_v<T, half> || std::is_same_v<T, bfloat16>) {
    for (int i = 0; i < S::lanes; ++i) p[i] = T(x[i]);
#else
  if constexpr (std::is_same_v<T, half>) {
    const detail::Words<S::lanes> words = detail::round_half<S::lanes>(x);
    std::memcpy(static_cast<void*>(p), &words, sizeof words);
  } else if constexpr (std::is_same_v<T, bfloat16>) {
    const detail::Words<S::lanes> words = detail::round_bfloat16<S::lanes>(x);
    std::memcpy(static_cast<void*>(p), &words, sizeof words);
#endif
  } else {
    S::store(p, x);
  }
}

/// Stores the last vector of a row, as far as the row has elements.
template <class S, Element T>
[[gnu::always_inline]] inline void store_last(T* row, typename S::Vector x, std::ptrdiff_t dim) {
  if (dim >= S::lanes) {
    store_narrowed<S>(row + dim - S::lanes, x);
    return;
  }
  T buffer[S::lanes];
  store_narrowed<S>(buffer, x);
  detail::copy_part<S::lanes>(row, buffer, dim);
}

}  // namespace cottention::cpu::COTTENTION_CPU_TARGET

#if defined(__clang__)
#pragma float_control(pop)
#endif

#endif
