// Vectors of double or float on the compiler's vector extensions, as wide as the target's registers.
//
// Everything is parameterised by the width in bytes rather than by the instruction set, so the narrow paths
// are tested on a wide machine.
#if !defined(COTTENTION_CPU_SIMD_HPP)
#define COTTENTION_CPU_SIMD_HPP

#include <cottention/cpu/target.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::cpu::COTTENTION_CPU_TARGET {

/// Bytes in the target's widest vector register; 16 where there is none, for the compiler to lower.
inline constexpr int native_vector_bytes = COTTENTION_CPU_VECTOR_BYTES;

/// The block of a matrix product that is held in registers: rows x vectors accumulators. Where 16 rows are no
/// whole number of blocks, those of last_rows rows complete them.
struct RegisterTile {
  int rows;
  int vectors;
  int last_rows = rows;
};

/// One row of b (vectors) and one element of a must fit beside the accumulators, and there must be enough
/// accumulators to hide the latency of a multiply-add: 4 cycles x 2 pipes on current x86. AVX-512 has 32
/// registers (8 x 2 reached 247 GFLOP/s of 249 on one Zen 5 core, 4 x 4 190), AVX 16 (6 x 2 reached 117
/// GFLOP/s on one Zen 3 core, 4 x 2, whose 8 accumulators leave no cycle to spare, 89), NEON 32 of 16 bytes.
template <int vector_bytes>
inline constexpr RegisterTile register_tile = {4, 2};
template <>
inline constexpr RegisterTile register_tile<64> = {8, 2};
template <>
inline constexpr RegisterTile register_tile<32> = {6, 2, 4};
#if defined(__aarch64__)
template <>
inline constexpr RegisterTile register_tile<16> = {4, 4};
#endif

namespace detail {

/// Copies `count` < lanes elements, a power of two of them at a time: a call of memcpy for each row would
/// take longer than the row.
template <int lanes, class E>
[[gnu::always_inline]] inline void copy_part(E* to, const E* from, std::ptrdiff_t count) {
  if constexpr (lanes > 1) {
    constexpr std::ptrdiff_t part = lanes / 2;
    if ((count & part) != 0) {
      std::memcpy(static_cast<void*>(to), from, part * sizeof(E));
      to += part, from += part;
    }
    copy_part<part>(to, from, count);
  }
}

}  // namespace detail

/// Keeps a pointer that a loop advances in one register. Compilers would replace it by one for each address
/// that is formed from it, run out of registers, and load addresses beside what is computed.
template <class E>
[[gnu::always_inline]] inline void in_register(E*& pointer) {
  __asm__("" : "+r"(pointer));
}

template <class A, int vector_bytes>
struct Simd {
  static constexpr int lanes = vector_bytes / static_cast<int>(sizeof(A));
  using Bit = std::conditional_t<sizeof(A) == 8, std::int64_t, std::int32_t>;
  typedef A Vector __attribute__((vector_size(vector_bytes)));
  typedef Bit Bits __attribute__((vector_size(vector_bytes)));

  [[gnu::always_inline]] static Vector load(const A* p) {
    Vector v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  /// load into a register, for values that serve several times: tuned for some processors, GCC would make a
  /// memory operand of each use. On Zen 3 that took products from 103 to 67 GFLOP/s, the loads being too
  /// many.
  [[gnu::always_inline]] static Vector load_once(const A* p) {
    Vector v = load(p);
#if defined(__x86_64__) && !defined(__clang__) && !defined(__NVCC__)
    if constexpr (vector_bytes <= COTTENTION_CPU_VECTOR_BYTES) __asm__("" : "+v"(v));
#endif
    return v;
  }
  [[gnu::always_inline]] static void store(A* p, Vector v) { std::memcpy(p, &v, sizeof v); }
  [[gnu::always_inline]] static Vector splat(A x) { return x - Vector{}; }

  /// The first `count` < lanes elements; the rest are 0.
  [[gnu::always_inline]] static Vector load_part(const A* p, int count) {
    A buffer[lanes] = {};
    detail::copy_part<lanes>(buffer, p, count);
    return load(buffer);
  }
  [[gnu::always_inline]] static void store_part(A* p, Vector v, int count) {
    A buffer[lanes];
    store(buffer, v);
    detail::copy_part<lanes>(p, buffer, count);
  }

  /// 0, 1, 2, ...
  [[gnu::always_inline]] static Bits iota() {
    return []<int... i>(std::integer_sequence<int, i...>) { return Bits{Bit{i}...}; }
    (std::make_integer_sequence<int, lanes>{});
  }

  /// yes where the mask is all ones, no where it is 0.
  [[gnu::always_inline]] static Vector select(Bits mask, Vector yes, Vector no) {
    const Bits chosen = (mask & reinterpret_cast<Bits>(yes)) | (~mask & reinterpret_cast<Bits>(no));
    return reinterpret_cast<Vector>(chosen);
  }

  /// Sum of all lanes, pairwise.
  [[gnu::always_inline]] static A sum(Vector v) { return sum_halves<lanes / 2>(v); }

  /// Elements 0, n, 1, n + 1, ... of the low (or high) halves of a and b, where n stands for b's.
  [[gnu::always_inline]] static Vector interleave_low(Vector a, Vector b) {
    return interleave<0>(a, b, std::make_integer_sequence<int, lanes>{});
  }
  [[gnu::always_inline]] static Vector interleave_high(Vector a, Vector b) {
    return interleave<lanes / 2>(a, b, std::make_integer_sequence<int, lanes>{});
  }

 private:
  template <int half>
  [[gnu::always_inline]] static A sum_halves(Vector v) {
    v += rotate<half>(v, std::make_integer_sequence<int, lanes>{});
    if constexpr (half > 1)
      return sum_halves<half / 2>(v);
    else
      return v[0];
  }
  template <int by, int... i>
  [[gnu::always_inline]] static Vector rotate(Vector v, std::integer_sequence<int, i...>) {
#if defined(__NVCC__)  // nvcc's front end writes no packs into the arguments of builtins
    return Vector{v[(i + by) % lanes]...};
#else
    return __builtin_shufflevector(v, v, ((i + by) % lanes)...);
#endif
  }
  template <int first, int... i>
  [[gnu::always_inline]] static Vector interleave(Vector a, Vector b, std::integer_sequence<int, i...>) {
#if defined(__NVCC__)
    return Vector{(i % 2 == 0 ? a : b)[first + i / 2]...};
#else
    return __builtin_shufflevector(a, b, (first + i / 2 + (i % 2) * lanes)...);
#endif
  }
};

/// Transposes a lanes x lanes block held in vectors: log2(lanes) rounds of a perfect shuffle.
template <class S>
[[gnu::always_inline]] inline void transpose(typename S::Vector (&block)[S::lanes]) {
  constexpr int n = S::lanes;
  typename S::Vector shuffled[n];
#pragma GCC unroll 4
  for (int round = 1; round < n; round *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < n / 2; ++i) {
      shuffled[2 * i] = S::interleave_low(block[i], block[i + n / 2]);
      shuffled[2 * i + 1] = S::interleave_high(block[i], block[i + n / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) block[i] = shuffled[i];
  }
}

/// Lane i becomes f's result over all lanes of block[i], where f(x, y) is of two vectors: each round combines
/// the two halves of every vector while it interleaves it with another one's.
template <class S, class F>
[[gnu::always_inline]] inline typename S::Vector combine_lanes(typename S::Vector (&block)[S::lanes], F f) {
#pragma GCC unroll 4
  for (int n = S::lanes / 2; n > 0; n /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < n; ++i)
      block[i] = f(S::interleave_low(block[i], block[i + n]), S::interleave_high(block[i], block[i + n]));
  return block[0];
}

/// Lane i becomes the sum over all lanes of block[i].
template <class S>
[[gnu::always_inline]] inline typename S::Vector sums_of(typename S::Vector (&block)[S::lanes]) {
  // With a capture, since the function that a lambda without one converts to is compiled for no target.
  return combine_lanes<S>(
      block, [&](typename S::Vector x, typename S::Vector y) __attribute__((always_inline))
                 ->typename S::Vector { return x + y; });
}

}  // namespace cottention::cpu::COTTENTION_CPU_TARGET

#if defined(__clang__)
#pragma float_control(pop)
#endif

#endif
