// Products of small matrices in the tensor cores of a warp, d += a b.
#pragma once

#include <concepts>
#include <cstdint>

#include <cuda_runtime.h>

#include <cottention/element.hpp>

namespace cottention::device {

template <Element T>
void mma_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                  emulation::Where where = emulation::Where::current()) {
  static_assert(std::same_as<T, half> || std::same_as<T, bfloat16>);
  emulation::multiply(std::same_as<T, half> ? emulation::Operand::half : emulation::Operand::bfloat16, d, a,
                      b, where);
}

/// As one of depth 16 whose second half is zero: tensor cores add products in blocks of at most 8.
template <Element T>
void mma_m16n8k8(float (&d)[4], const std::uint32_t (&a)[2], std::uint32_t b,
                 emulation::Where where = emulation::Where::current()) {
  mma_m16n8k16<T>(d, {a[0], a[1], 0u, 0u}, {b, 0u}, where);
}

inline void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                             emulation::Where where = emulation::Where::current()) {
  emulation::multiply(emulation::Operand::tf32, d, a, b, where);
}

inline void mma_m8n8k4_f64(double (&d)[2], double a, double b,
                           emulation::Where where = emulation::Where::current()) {
  emulation::multiply(d, a, b, where);
}

}  // namespace cottention::device
