// Loads and stores that name their memory space. T is trivially copyable, of 1, 2, 4, 8 or 16 bytes, and
// aligned to its size; each call is one instruction.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include <cuda_runtime.h>

namespace cottention::device {

/// n neighbours, moved as one.
template <class T, int n>
struct alignas(sizeof(T) * n) Vector {
  T values[n];
  __device__ __forceinline__ T& operator[](int i) { return values[i]; }
  __device__ __forceinline__ const T& operator[](int i) const { return values[i]; }
};

template <class T>
__device__ __forceinline__ T load_global(const T* from) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16);
  __builtin_assume(__isGlobal(from));  // of a pointer that was in memory itself, the compiler does not know
  return *from;
}

/// 16 bytes that are read once: they leave the first-level cache to others. Stays before the words that
/// follow it, so that loads begun early are in flight early. PTX ISA: ld.global.L1::no_allocate (sm_70).
template <class T>
__device__ __forceinline__ T load_global_streaming(const T* from) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) == 16);
  std::uint32_t bits[4];
  asm volatile("ld.global.L1::no_allocate.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(bits[0]), "=r"(bits[1]), "=r"(bits[2]), "=r"(bits[3])
               : "l"(__cvta_generic_to_global(from))
               : "memory");
  T value;
  memcpy(&value, bits, sizeof value);
  return value;
}

template <class T>
__device__ __forceinline__ void store_global(T* to, const T& value) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16);
  __builtin_assume(__isGlobal(to));
  *to = value;
}

/// Adds to a number that other blocks add to at the same time; returns what it was before. For a lane or two
/// of a warp. PTX ISA: atom.relaxed.gpu.global.add.u64, whose sums wrap as those of s64 do.
__device__ __forceinline__ std::int64_t fetch_add_global(std::int64_t* at, std::int64_t value) {
  // Where all lanes name one address, ptxas has one of them add for all, and the warp wait there for the
  // answer. Bit 31 of %lanemask_lt is 0 in every lane, but ptxas does not count on it, so the answer may come
  // later.
  std::int64_t before;
  asm volatile(
      "{\n"
      ".reg .b32 mask;\n"
      ".reg .b64 zero, address;\n"
      "mov.u32 mask, %%lanemask_lt;\n"
      "shr.u32 mask, mask, 31;\n"
      "cvt.u64.u32 zero, mask;\n"
      "add.u64 address, %1, zero;\n"
      "atom.relaxed.gpu.global.add.u64 %0, [address], %2;\n"
      "}"
      : "=l"(before)
      : "l"(__cvta_generic_to_global(at)), "l"(value)
      : "memory");
  return before;
}

/// The place in shared memory whose address differs in `bits`, below 128, for memory that is aligned to 128.
/// In 32 bits, whose sum with a constant is part of the instruction that uses it.
template <class T>
__device__ __forceinline__ T* xor_shared(T* at, unsigned bits) {
  return static_cast<T*>(
      __cvta_shared_to_generic(static_cast<unsigned>(__cvta_generic_to_shared(at)) ^ bits));
}

template <class T>
__device__ __forceinline__ T load_shared(const T* from) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16);
  return *from;
}
template <class T>
__device__ __forceinline__ void store_shared(T* to, const T& value) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16);
  *to = value;
}

}  // namespace cottention::device
