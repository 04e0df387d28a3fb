// Pairs of 16-bit operands as sums of a high and a low part, and factors that multiply the terms of an
// operand.
#pragma once

#include <concepts>
#include <cstdint>

#include <cottention/device/convert.cuh>
#include <cottention/device/memory.cuh>

namespace cottention::tile {

/// high + low = x, to the precision of two numbers of 16 bits, for a pair x0, x1.
template <Element T>
__device__ __forceinline__ void split(float x0, float x1, std::uint32_t& high, std::uint32_t& low) {
  high = device::pack<T>(x0, x1);
  low = device::pack<T>(x0 - device::unpack_low<T>(high), x1 - device::unpack_high<T>(high));
}
/// high + low / low_scale = x: low parts that would be below half's range are within it.
template <Element T>
__device__ __forceinline__ void split(float x0, float x1, float low_scale, std::uint32_t& high,
                                      std::uint32_t& low) {
  high = device::pack<T>(x0, x1);
  low = device::pack<T>((x0 - device::unpack_low<T>(high)) * low_scale,
                        (x1 - device::unpack_high<T>(high)) * low_scale);
}
/// high + low = x f to 2^-15 of it, for a pair x and factors f, each pair in one register; f's are split too.
__device__ __forceinline__ void split_product(std::uint32_t pair, std::uint32_t factors_high,
                                              std::uint32_t factors_low, std::uint32_t& high,
                                              std::uint32_t& low) {
  constexpr std::uint32_t minus_zero = 0x80008000, signs = minus_zero;
  high = device::fma_pair<bfloat16>(pair, factors_high, minus_zero);
  // The rounding error of `high` is a bfloat16, so this is exact.
  const std::uint32_t rest = device::fma_pair<bfloat16>(pair, factors_high, high ^ signs);
  low = device::fma_pair<bfloat16>(pair, factors_low, rest);
}

/// Factors of a chunk's terms, in shared memory. For bfloat16 they are split too, so that split_product()
/// needs no fp32: of each pair of neighbouring terms the two high parts, then the two low ones.
template <Element T, int chunk>
struct TermFactors {
  using A = Accumulate<T>;
  static constexpr bool split = std::same_as<T, bfloat16>;
  alignas(16) A full[chunk];                   // (chunk)
  alignas(16) T hi_lo[split ? 2 * chunk : 1];  // (chunk / 2, high or low, 2)

  __device__ __forceinline__ void set(int term, A x) {
    device::store_shared(full + term, x);
    if constexpr (split) {
      const T high = device::narrow<T>(x);
      T* const at = hi_lo + term / 2 * 4 + term % 2;
      device::store_shared(at, high);
      device::store_shared(at + 2, device::narrow<T>(x - device::widen<T>(high)));
    }
  }
  /// set() by two lanes that have the same, with one store less.
  __device__ __forceinline__ void set_by_two(int term, A x, bool second) {
    if (!second) device::store_shared(full + term, x);
    if constexpr (split) {
      const T high = device::narrow<T>(x);
      T* const at = hi_lo + term / 2 * 4 + term % 2;
      device::store_shared(second ? at + 2 : at,
                           second ? device::narrow<T>(x - device::widen<T>(high)) : high);
    }
  }
};

}  // namespace cottention::tile
