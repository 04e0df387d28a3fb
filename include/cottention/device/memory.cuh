// Loads and stores that name their memory space. T is trivially copyable, of 1, 2, 4, 8 or 16 bytes, and
// aligned to its size; each call is one instruction.
#pragma once

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
  return *from;
}
template <class T>
__device__ __forceinline__ void store_global(T* to, const T& value) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16);
  *to = value;
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
