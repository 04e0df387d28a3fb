// The element types of q, k, v and o: double, float, half and bfloat16.
//
// half and bfloat16 are storage types: two bytes and their conversions, with no CUDA header needed. They
// share size, alignment and bit pattern with the 16-bit types of other libraries, CUDA's __half and
// __nv_bfloat16 or PyTorch's at::Half, and may alias them: as_elements makes a pointer to one of the other.
#pragma once

#include <cottention/requirements.hpp>

#include <bit>
#include <concepts>
#include <cstdint>
#include <type_traits>

namespace cottention {

/// IEEE 754 binary16, the bits of CUDA's `__half`. Conversion from float rounds to nearest, ties to even.
struct __attribute__((may_alias)) half {
  std::uint16_t bits;

  half() = default;
  constexpr explicit half(float x) : bits(round(x)) {}
  constexpr explicit operator float() const { return widen(bits); }

  static constexpr half from_bits(std::uint16_t b) {
    half h{};
    h.bits = b;
    return h;
  }

  static constexpr float widen(std::uint16_t b) {
    const std::uint32_t sign = static_cast<std::uint32_t>(b & 0x8000u) << 16;
    const std::uint32_t magnitude = b & 0x7fffu;
    if (magnitude >= 0x7c00u)  // infinity and NaN keep their payload
      return std::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    // Subnormals count steps of 2^-24. (No subnormal float occurs, so it does not matter whether those are
    // flushed.)
    const float value = magnitude < 0x400u ? static_cast<float>(magnitude) * 0x1p-24f
                                           : std::bit_cast<float>((magnitude << 13) + (112u << 23));
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(value));
  }

  static constexpr std::uint16_t round(float x) {
    const std::uint32_t u = std::bit_cast<std::uint32_t>(x);
    const auto sign = static_cast<std::uint16_t>(u >> 16 & 0x8000u);
    const std::uint32_t magnitude = u & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);   // NaN, made quiet
    if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // 65,520 and above
    if (magnitude <
        0x38800000u) {  // below 2^-14: adding 0.5 rounds to a multiple of 2^-24, the subnormal step
      const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
      return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u));
    }
    const std::uint32_t even = magnitude >> 13 & 1u;
    return static_cast<std::uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + even) >> 13));
  }
};

/// bfloat16: the upper half of a float, the bits of CUDA's `__nv_bfloat16`. Conversion from float rounds to
/// nearest, ties to even.
struct __attribute__((may_alias)) bfloat16 {
  std::uint16_t bits;

  bfloat16() = default;
  constexpr explicit bfloat16(float x) : bits(round(x)) {}
  constexpr explicit operator float() const { return widen(bits); }

  static constexpr bfloat16 from_bits(std::uint16_t b) {
    bfloat16 h{};
    h.bits = b;
    return h;
  }

  static constexpr float widen(std::uint16_t b) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(b) << 16);
  }

  static constexpr std::uint16_t round(float x) {
    const std::uint32_t u = std::bit_cast<std::uint32_t>(x);
    if ((u & 0x7fffffffu) > 0x7f800000u)
      return static_cast<std::uint16_t>(u >> 16 | 0x40u);  // NaN, made quiet
    return static_cast<std::uint16_t>((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
  }
};

static_assert(sizeof(half) == 2 && alignof(half) == 2 && std::is_trivially_copyable_v<half>);
static_assert(sizeof(bfloat16) == 2 && alignof(bfloat16) == 2 && std::is_trivially_copyable_v<bfloat16>);

/// The element types that tensors may hold.
template <class T>
concept Element =
    std::same_as<T, double> || std::same_as<T, float> || std::same_as<T, half> || std::same_as<T, bfloat16>;

/// What sums, norms and the recurrent state are held in: double for double, float for everything else.
template <Element T>
using Accumulate = std::conditional_t<std::same_as<T, double>, double, float>;

namespace detail {

/// Whether memory that holds Ts may be pointed to as memory that holds Us.
template <class T, class U>
constexpr bool holds() {
  if constexpr (std::is_void_v<U> || std::same_as<T, U>)
    return true;
  else
    return sizeof(T) == 2 && sizeof(U) == 2 && std::is_trivially_copyable_v<U> && !Element<U>;
}

}  // namespace detail

/// A pointer to Ts from one of another library's: `void*`, and for half and bfloat16 a pointer to any other
/// trivially copyable type of 16 bits, such as __half, __nv_bfloat16, at::Half or std::uint16_t. Which of the
/// two formats the bits are in is for the caller to know. Const stays const.
template <Element T, class U>
auto as_elements(U* pointer) {
  using From = std::remove_cv_t<U>;
  static_assert(
      detail::holds<T, From>() && !std::is_volatile_v<U>,
      "cottention: as_elements<T> takes void*, T* and, where T is half or bfloat16, a pointer to another "
      "library's trivially copyable type of 16 bits, because it reads the same bits and converts none. "
      "Remedy: give as T the type that the elements have, or convert them.");
  if constexpr (std::is_const_v<U>)
    return static_cast<const T*>(static_cast<const void*>(pointer));
  else
    return static_cast<T*>(static_cast<void*>(pointer));
}

/// The name used in messages and benchmark rows.
template <Element T>
inline constexpr const char* element_name = std::same_as<T, double>  ? "fp64"
                                            : std::same_as<T, float> ? "fp32"
                                            : std::same_as<T, half>  ? "fp16"
                                                                     : "bf16";

/// Widens exactly.
template <Element T>
constexpr double to_double(T x) {
  if constexpr (std::same_as<T, half> || std::same_as<T, bfloat16>)
    return static_cast<double>(static_cast<float>(x));
  else
    return static_cast<double>(x);
}

}  // namespace cottention
