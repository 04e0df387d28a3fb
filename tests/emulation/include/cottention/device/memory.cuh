// Loads and stores that name their memory space. Inlined always: the race detector knows a line of the kernel
// by where the engine returns to.
#pragma once

#include <cstdint>
#include <type_traits>

#include <cuda_runtime.h>

namespace cottention::device {

template <class T, int n>
struct alignas(sizeof(T) * n) Vector {
  T values[n];
  T& operator[](int i) { return values[i]; }
  const T& operator[](int i) const { return values[i]; }
};

template <class T>
[[gnu::always_inline]] inline T load_global(const T* from,
                                            emulation::Where where = emulation::Where::current()) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16);
  T value;
  emulation::load_global(&value, from, sizeof(T), where);
  return value;
}

template <class T>
[[gnu::always_inline]] inline T load_global_streaming(const T* from,
                                                      emulation::Where where = emulation::Where::current()) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) == 16);
  return load_global(from, where);
}

inline std::int64_t fetch_add_global(std::int64_t* at, std::int64_t value,
                                     emulation::Where where = emulation::Where::current()) {
  return emulation::fetch_add_global(at, value, where);
}

template <class T>
[[gnu::always_inline]] inline void store_global(T* to, const T& value,
                                                emulation::Where where = emulation::Where::current()) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16);
  emulation::store_global(to, &value, sizeof(T), where);
}

template <class T>
[[gnu::always_inline]] inline T* xor_shared(T* at, unsigned bits) {
  return reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(at) ^ bits);
}

template <class T>
[[gnu::always_inline]] inline T load_shared(const T* from,
                                            emulation::Where where = emulation::Where::current()) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16);
  T value;
  emulation::load_shared(&value, from, sizeof(T), where);
  return value;
}

template <class T>
[[gnu::always_inline]] inline void store_shared(T* to, const T& value,
                                                emulation::Where where = emulation::Where::current()) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16);
  emulation::store_shared(to, &value, sizeof(T), where);
}

}  // namespace cottention::device
