// How tiles in shared memory are permuted, so that the 16-byte units of one column lie in different banks.
#pragma once

#include <cuda_runtime.h>

namespace cottention::device {

/// The bytes of a row within which 16-byte units are exchanged. PTX ISA, "Swizzling modes" of tensor maps and
/// of matrix descriptors.
enum class Swizzle { none, bytes_32, bytes_64, bytes_128 };

/// The bytes of a row that is permuted: 16 where nothing is.
__host__ __device__ constexpr int span_of(Swizzle swizzle) { return 16 << static_cast<int>(swizzle); }

/// The bytes after which the permutation repeats: eight rows. Tiles start at a multiple of it.
__host__ __device__ constexpr int repeat_of(Swizzle swizzle) { return 8 * span_of(swizzle); }

/// Where the byte at `offset` from the start of a tile lies: of the bits that count the 16-byte units of a
/// row, as many as the span has are exchanged with those that count rows of 128 bytes.
__host__ __device__ constexpr int swizzled(int offset, Swizzle swizzle) {
  const int units = span_of(swizzle) / 16 - 1;
  return offset ^ (((offset >> 7) & units) << 4);
}

}  // namespace cottention::device
