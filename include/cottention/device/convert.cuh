// Between element types and fp32, and between numbers and their bits. Rounds to nearest, ties to even.
#pragma once

#include <concepts>
#include <cstdint>
#include <cstring>

#include <cuda_runtime.h>

#include <cottention/element.hpp>

namespace cottention::device {

/// The same bits as another type.
template <class To, class From>
__device__ __forceinline__ To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

/// Two 16-bit elements in a register, `low` in the low half. PTX ISA: cvt.rn.f16x2.f32, cvt.rn.bf16x2.f32
/// (sm_80).
template <Element T>
__device__ __forceinline__ std::uint32_t pack(float low, float high) {
  static_assert(sizeof(T) == 2);
  std::uint32_t pair;
  if constexpr (std::same_as<T, half>)
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

/// Exact. PTX ISA: cvt.f32.f16; the bits of a bfloat16 are the upper half of a float's.
template <Element T>
__device__ __forceinline__ Accumulate<T> widen(T x) {
  if constexpr (std::same_as<T, half>) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
    return wide;
  } else if constexpr (std::same_as<T, bfloat16>) {
    return bits_as<float>(static_cast<std::uint32_t>(x.bits) << 16);
  } else {
    return x;
  }
}

template <Element T>
__device__ __forceinline__ T narrow(Accumulate<T> x) {
  if constexpr (sizeof(T) == 2) {
    T narrowed;
    narrowed.bits = static_cast<std::uint16_t>(pack<T>(x, 0.0f));
    return narrowed;
  } else {
    return x;
  }
}

template <Element T>
__device__ __forceinline__ float unpack_low(std::uint32_t pair) {
  static_assert(sizeof(T) == 2);
  T x;
  x.bits = static_cast<std::uint16_t>(pair);
  return widen<T>(x);
}

template <Element T>
__device__ __forceinline__ float unpack_high(std::uint32_t pair) {
  static_assert(sizeof(T) == 2);
  if constexpr (std::same_as<T, bfloat16>) {
    return bits_as<float>(pair & 0xffff0000u);
  } else {
    T x;
    x.bits = static_cast<std::uint16_t>(pair >> 16);
    return widen<T>(x);
  }
}

/// a b + c of the low and the high halves, rounded once. PTX ISA: fma.rn.f16x2, fma.rn.bf16x2 (sm_80).
template <Element T>
__device__ __forceinline__ std::uint32_t fma_pair(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  static_assert(sizeof(T) == 2);
  std::uint32_t d;
  if constexpr (std::same_as<T, half>)
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  else
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

/// The bits of the nearest tf32 number: fp32 with 10 bits of fraction, the rest zero. PTX ISA:
/// cvt.rna.tf32.f32 (sm_80), ties away from zero.
__device__ __forceinline__ std::uint32_t round_to_tf32(float x) {
  std::uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits & 0xffffe000u;
}

}  // namespace cottention::device
