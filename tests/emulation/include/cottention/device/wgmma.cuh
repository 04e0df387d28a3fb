// Products in the tensor cores of a warpgroup.
#pragma once

#include <concepts>
#include <cstdint>

#include <cuda_runtime.h>

#include <cottention/device/swizzle.cuh>
#include <cottention/element.hpp>

namespace cottention::device {

enum class Major { k, mn };

enum class Sum { start, add };

struct MatrixDescriptor {
  std::uint64_t bits;
  MatrixDescriptor operator+(int bytes) const { return {bits + static_cast<std::uint64_t>(bytes >> 4)}; }
};

inline MatrixDescriptor matrix_descriptor(const void* tile_shared, int leading_bytes, int stride_bytes,
                                          Swizzle swizzle,
                                          emulation::Where where = emulation::Where::current()) {
  const auto field = [](int bytes) {
    return static_cast<std::uint64_t>((static_cast<unsigned>(bytes) & 0x3ffffu) >> 4);
  };
  const auto start = static_cast<int>(emulation::shared_address(tile_shared, where));
  const std::uint64_t mode = (4 - static_cast<unsigned>(swizzle)) % 4;
  return {field(start) | field(leading_bytes) << 16 | field(stride_bytes) << 32 | mode << 62};
}

inline void wgmma_fence(emulation::Where where = emulation::Where::current()) {
  emulation::wgmma_fence(where);
}

inline void wgmma_commit(emulation::Where where = emulation::Where::current()) {
  emulation::wgmma_commit(where);
}

template <int groups>
void wgmma_wait(emulation::Where where = emulation::Where::current()) {
  static_assert(groups >= 0 && groups <= 7);
  emulation::wgmma_wait(groups, where);
}

template <int count>
void pin_registers(float (&)[count]) {}

template <Element T, int n, Major a_major, Major b_major>
[[gnu::always_inline]] inline void wgmma_m64k16(float (&d)[n / 2], MatrixDescriptor a, MatrixDescriptor b,
                                                Sum sum,
                                                emulation::Where where = emulation::Where::current()) {
  using emulation::Orientation, emulation::WarpgroupProduct;
  static_assert(std::same_as<T, half> || std::same_as<T, bfloat16>);
  static_assert(n >= 8 && n <= 256 && n % 8 == 0);
  WarpgroupProduct product;
  product.operand = std::same_as<T, half> ? emulation::Operand::half : emulation::Operand::bfloat16;
  product.n = n;
  product.a_descriptor = a.bits;
  product.b_descriptor = b.bits;
  product.a_orientation = a_major == Major::k ? Orientation::straight : Orientation::transposed;
  product.b_orientation = b_major == Major::k ? Orientation::straight : Orientation::transposed;
  product.sum = sum == Sum::add ? WarpgroupProduct::Sum::add : WarpgroupProduct::Sum::start;
  emulation::multiply(d, product, where);
}

template <Element T, int n, Major b_major>
[[gnu::always_inline]] inline void wgmma_m64k16(float (&d)[n / 2], const std::uint32_t (&a)[4],
                                                MatrixDescriptor b, Sum sum,
                                                emulation::Where where = emulation::Where::current()) {
  using emulation::Orientation, emulation::WarpgroupProduct;
  static_assert(std::same_as<T, half> || std::same_as<T, bfloat16>);
  static_assert(n >= 8 && n <= 256 && n % 8 == 0);
  WarpgroupProduct product;
  product.operand = std::same_as<T, half> ? emulation::Operand::half : emulation::Operand::bfloat16;
  product.n = n;
  product.a_registers = a;
  product.b_descriptor = b.bits;
  product.b_orientation = b_major == Major::k ? Orientation::straight : Orientation::transposed;
  product.sum = sum == Sum::add ? WarpgroupProduct::Sum::add : WarpgroupProduct::Sum::start;
  emulation::multiply(d, product, where);
}

}  // namespace cottention::device
