// Products in the tensor cores of a warpgroup, four warps whose first has an index divisible by four: d = a b
// or d += a b, with a of 64 x 16 elements, b of 16 x n, and n a multiple of 8 up to 256. They run beside the
// threads that issue them. PTX ISA: wgmma (sm_90a).
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

/// Which elements of an operand in shared memory are neighbours: those along the 16 that are summed over, or
/// those along rows of a or columns of b.
enum class Major { k, mn };

/// Whether d counts, or starts opaque.
enum class Sum { start, add };

/// Where an operand lies in shared memory and how.
struct MatrixDescriptor {
  std::uint64_t bits;

  /// The same `bytes` bytes further, a multiple of 16 that keeps to the tile.
  __device__ __forceinline__ MatrixDescriptor operator+(int bytes) const {
    return {bits + static_cast<std::uint64_t>(bytes >> 4)};
  }
};

/// PTX ISA, "Matrix descriptor format" and "Strides". In units of 16 bytes, which hold eight elements along
/// the major dimension, and with the span of the swizzle in units, an operand is made of blocks of span x 8
/// units; `stride_bytes` lead from one block to the next along the other dimension, `leading_bytes` along the
/// major one. For Major::k with a swizzle the 16 elements lie in one block, and leading_bytes does not count.
/// (Without a swizzle and Major::mn the two exchange their meaning.)
__device__ __forceinline__ MatrixDescriptor matrix_descriptor(const void* tile_shared, int leading_bytes,
                                                              int stride_bytes, Swizzle swizzle) {
  const auto field = [](unsigned bytes) { return static_cast<std::uint64_t>((bytes & 0x3ffffu) >> 4); };
  const std::uint64_t mode = (4 - static_cast<unsigned>(swizzle)) % 4;  // 0, 3, 2, 1
  return {field(static_cast<unsigned>(__cvta_generic_to_shared(tile_shared))) |
          field(static_cast<unsigned>(leading_bytes)) << 16 |
          field(static_cast<unsigned>(stride_bytes)) << 32 | mode << 62};
}

/// Before the first product, and between other uses of registers and products that use them. PTX ISA:
/// wgmma.fence.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

/// Closes the group of products issued since the last one. PTX ISA: wgmma.commit_group.
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/// Waits until at most `groups` of the latest groups are in flight. PTX ISA: wgmma.wait_group.
template <int groups>
__device__ __forceinline__ void wgmma_wait() {
  static_assert(groups >= 0 && groups <= 7);
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(groups) : "memory");
}

/// Keeps the compiler from moving uses of d across this point, as it may across the waits, which do not name
/// d.
template <int count>
__device__ __forceinline__ void pin_registers(float (&d)[count]) {
  for (float& x : d) asm volatile("" : "+f"(x)::"memory");
}

/// T is half or bfloat16; sums in fp32. Products of one n may follow each other on the same d; before one of
/// another n, and before any other use of d, wgmma_wait must have been past them. PTX ISA:
/// wgmma.mma_async.m64nNk16; "wgmma.fence" on its order.
template <Element T, int n, Major a_major, Major b_major>
__device__ __forceinline__ void wgmma_m64k16(float (&d)[n / 2], MatrixDescriptor a, MatrixDescriptor b,
                                             Sum sum) {
  static_assert(std::same_as<T, half> || std::same_as<T, bfloat16>);
  WgmmaForm<n>::template from_shared<T, a_major == Major::mn, b_major == Major::mn>(d, a.bits, b.bits,
                                                                                    sum == Sum::add);
}

/// a in registers.
template <Element T, int n, Major b_major>
__device__ __forceinline__ void wgmma_m64k16(float (&d)[n / 2], const std::uint32_t (&a)[4],
                                             MatrixDescriptor b, Sum sum) {
  static_assert(std::same_as<T, half> || std::same_as<T, bfloat16>);
  WgmmaForm<n>::template from_registers<T, b_major == Major::mn>(d, a, b.bits, sum == Sum::add);
}

}  // namespace cottention::device
