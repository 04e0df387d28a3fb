// Elements from the registers of tensor-core operands.
#pragma once

#include <bit>
#include <cstdint>

namespace cottention::emulation {

/// As half::widen, without branches, so that it vectorises: a shift, and 2^112 for the difference of biases.
inline float half_value(std::uint32_t bits) {
  const std::uint32_t magnitude = bits & 0x7fffu;
  const float finite = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  const std::uint32_t value =
      magnitude >= 0x7c00u ? 0x7f800000u | (magnitude & 0x3ffu) << 13 : std::bit_cast<std::uint32_t>(finite);
  return std::bit_cast<float>(value | (bits & 0x8000u) << 16);
}

inline float bfloat16_value(std::uint32_t bits) { return std::bit_cast<float>(bits << 16); }

/// The tensor cores read 10 bits of fraction. PTX ISA, "Matrix fragments for mma.m16n8k8 with .tf32": the
/// lower 13 bits are ignored.
inline float tf32_value(std::uint32_t bits) { return std::bit_cast<float>(bits & 0xffffe000u); }

}  // namespace cottention::emulation
