// Between element types and fp32, and between numbers and their bits.
#pragma once

#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>

#include <cuda_runtime.h>

#include <cottention/element.hpp>

namespace cottention::device {

template <class To, class From>
To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  return std::bit_cast<To>(from);
}

template <Element T>
T narrow(Accumulate<T> x) {
  if constexpr (sizeof(T) == 2)
    return x == x ? T(x) : T::from_bits(0x7fff);  // PTX ISA, cvt: the NaN of 16-bit results
  else
    return x;
}

template <Element T>
std::uint32_t pack(float low, float high) {
  static_assert(sizeof(T) == 2);
  return narrow<T>(low).bits | static_cast<std::uint32_t>(narrow<T>(high).bits) << 16;
}

template <Element T>
Accumulate<T> widen(T x) {
  return static_cast<Accumulate<T>>(x);
}

template <Element T>
float unpack_low(std::uint32_t pair) {
  static_assert(sizeof(T) == 2);
  return T::widen(static_cast<std::uint16_t>(pair));
}

template <Element T>
float unpack_high(std::uint32_t pair) {
  static_assert(sizeof(T) == 2);
  return T::widen(static_cast<std::uint16_t>(pair >> 16));
}

/// What fp32 cannot hold of a sum is rounded twice here.
template <Element T>
std::uint32_t fma_pair(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  return pack<T>(std::fma(unpack_low<T>(a), unpack_low<T>(b), unpack_low<T>(c)),
                 std::fma(unpack_high<T>(a), unpack_high<T>(b), unpack_high<T>(c)));
}

inline std::uint32_t round_to_tf32(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if ((bits & 0x7f800000u) == 0x7f800000u) return x == x ? bits : 0x7fffe000u;
  return (bits + 0x1000u) & 0xffffe000u;  // half a step of the magnitude, then cut: ties go away from zero
}

}  // namespace cottention::device
