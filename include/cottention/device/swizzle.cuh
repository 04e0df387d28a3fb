// How tiles in shared memory are permuted, so that the 16-byte vectors of one column lie in different banks.
#pragma once

#include <cuda_runtime.h>

namespace cottention::device {

/// The bytes of a row within which 16-byte vectors are permuted. PTX ISA, "Swizzling modes" of tensor maps
/// and of matrix descriptors.
enum class Swizzle { none, bytes_32, bytes_64, bytes_128 };

/// The bytes within which vectors are permuted: 16, one vector, for Swizzle::none.
__host__ __device__ constexpr int span_of(Swizzle swizzle) { return 16 << static_cast<int>(swizzle); }

/// The bytes after which the permutation repeats: eight rows. Tiles start at a multiple of it.
__host__ __device__ constexpr int repeat_of(Swizzle swizzle) { return 8 * span_of(swizzle); }

/// Where the byte at `offset` from the start of a tile lies: the bits of the offset that count vectors within
/// the span (bit 4 up) become their xor with as many of the bits that count 128 bytes (bit 7 up).
__host__ __device__ constexpr int swizzled(int offset, Swizzle swizzle) {
  const int vecs = span_of(swizzle) / 16 - 1;
  return offset ^ (((offset >> 7) & vecs) << 4);
}

}  // namespace cottention::device
