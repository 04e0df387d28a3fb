// Products in the tensor cores of a warpgroup, four warps whose first has an index divisible by four: d = a b
// or d += a b, (64, 16) x (16, n) -> (64, n), n a multiple of 8 up to 256. They are asynchronous: threads go
// on while a product runs. PTX ISA: wgmma (sm_90a). Scope of all functions but matrix_descriptor() and
// pin_registers(): warpgroup; barriers inside: 0.
//
// With w the warp's index in the warpgroup, g = lane / 4 and t = lane % 4, a lane holds
//
//     d[4j + 2h + e]     element (16w + g + 8h, 8j + 2t + e)       h and e 0 or 1
//     a[r], its halves   elements (16w + g + 8 (r % 2), 2t.. + 8 (r / 2)), the low half first
#pragma once

#include <concepts>
#include <cstdint>

#include <cuda_runtime.h>

#include <cottention/device/swizzle.cuh>
#include <cottention/device/wgmma_forms.cuh>
#include <cottention/element.hpp>

namespace cottention::device {

/// The major dimension of an operand in shared memory, along which elements are neighbours: k, the 16 that
/// are summed over, or m of a and n of b.
enum class Major { k, mn };

/// Whether a product is added to d or replaces it.
enum class Sum { start, add };

/// The address and the layout of an operand in shared memory.
struct MatrixDescriptor {
  std::uint64_t bits;

  /// The descriptor of the operand `bytes` bytes further on, a multiple of 16, in the same tile.
  __device__ __forceinline__ MatrixDescriptor operator+(int bytes) const {
    return {bits + static_cast<std::uint64_t>(bytes >> 4)};
  }
};

/// PTX ISA, "Matrix descriptor format" and "Strides". An operand is made of blocks: along the major dimension
/// as many 16-byte vectors, of eight elements each, as the span of the swizzle has, and 8 of these along the
/// other dimension. `stride_bytes` lead from one block to the next along the other dimension, `leading_bytes`
/// along the major one. For Major::k with a swizzle the 16 elements lie in one block, and leading_bytes does
/// not count. Without a swizzle and with Major::mn the two strides exchange their meaning.
__device__ __forceinline__ MatrixDescriptor matrix_descriptor(const void* tile_shared, int leading_bytes,
                                                              int stride_bytes, Swizzle swizzle) {
  const auto field = [](unsigned bytes) { return static_cast<std::uint64_t>((bytes & 0x3ffffu) >> 4); };
  const std::uint64_t mode = (4 - static_cast<unsigned>(swizzle)) % 4;  // 0, 3, 2, 1
  return {field(static_cast<unsigned>(__cvta_generic_to_shared(tile_shared))) |
          field(static_cast<unsigned>(leading_bytes)) << 16 |
          field(static_cast<unsigned>(stride_bytes)) << 32 | mode << 62};
}

/// Orders uses of registers by threads before uses of them by products: needed before the first product, and
/// wherever a thread has written a register that a product then uses. PTX ISA:
/// wgmma.fence.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

/// Makes a group of the products issued since the last group. PTX ISA: wgmma.commit_group.
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/// Waits until at most `groups` of the latest groups are in flight. PTX ISA: wgmma.wait_group.
template <int groups>
__device__ __forceinline__ void wgmma_wait() {
  static_assert(groups >= 0 && groups <= 7);
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(groups) : "memory");
}

/// Keeps the compiler from moving uses of d across this point. wgmma_wait() does not name d, so the compiler
/// may move them across that.
template <int count>
__device__ __forceinline__ void pin_registers(float (&d)[count]) {
  for (float& x : d) asm volatile("" : "+f"(x)::"memory");
}

/// (64, 16) x (16, n) -> (64, n) of half or bfloat16, accumulated in fp32, both operands in shared memory.
/// Products of one n may follow each other on the same d; before a product of another n, and before any other
/// use of d, wgmma_wait() must have waited for them. PTX ISA: wgmma.mma_async.m64nNk16; "wgmma.fence" on its
/// order.
template <Element T, int n, Major a_major, Major b_major>
__device__ __forceinline__ void wgmma_m64k16(float (&d)[n / 2], MatrixDescriptor a, MatrixDescriptor b,
                                             Sum sum) {
  static_assert(std::same_as<T, half> || std::same_as<T, bfloat16>);
  WgmmaForm<n>::template from_shared<T, a_major == Major::mn, b_major == Major::mn>(d, a.bits, b.bits,
                                                                                    sum == Sum::add);
}

/// The same product with a in registers.
template <Element T, int n, Major b_major>
__device__ __forceinline__ void wgmma_m64k16(float (&d)[n / 2], const std::uint32_t (&a)[4],
                                             MatrixDescriptor b, Sum sum) {
  static_assert(std::same_as<T, half> || std::same_as<T, bfloat16>);
  WgmmaForm<n>::template from_registers<T, b_major == Major::mn>(d, a, b.bits, sum == Sum::add);
}

}  // namespace cottention::device
