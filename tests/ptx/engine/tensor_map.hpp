// What the stand-in of cuTensorMapEncodeTiled writes, and copies of tiles read.
#pragma once

#include <cstdint>

namespace cottention::ptx {

struct TensorMap {
  static constexpr std::uint64_t known = 0x636f7474656e7469;
  std::uint64_t magic, address;
  std::uint64_t extents[4], strides[3];  // elements; bytes
  std::uint16_t box[4];
  std::uint32_t rank, element_bytes, swizzle_units;  // 16-byte units that are exchanged, less 1: 0, 1, 3, 7
};
static_assert(sizeof(TensorMap) <= 128);  // CUtensorMap

/// Where a byte at this address of shared memory lies: PTX ISA, "Swizzling Modes".
inline std::uint64_t swizzled(std::uint64_t address, std::uint64_t units) {
  return address ^ ((address >> 7 & units) << 4);
}

}  // namespace cottention::ptx
