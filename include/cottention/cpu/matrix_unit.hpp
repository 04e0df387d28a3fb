// Matrix units of processors: products of tiles of bfloat16 that are summed in fp32.
//
// A unit has eight tiles of 16 rows of 64 bytes. A product c += a b has c (16, 16) in fp32, a (16, 32) in
// bfloat16, and b (32, 16) in bfloat16 as (16, 16) pairs of elements: pair (r, n) is (b[2r][n], b[2r +
// 1][n]). Subnormal elements and sums count as 0, and nothing raises a floating-point exception.
#pragma once

#include <cottention/cpu/target.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

#if COTTENTION_CPU_HAS_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(COTTENTION_CPU_PORTABLE_TILES)
#include <bit>
#include <cmath>
#endif

namespace cottention::cpu {

/// Rows of a tile, and its columns in fp32.
inline constexpr int tile_extent = 16;
/// The terms of each sum of one product.
inline constexpr int tile_depth = 32;

/// What code is compiled with that has no matrix unit.
struct NoMatrixUnit {
  static constexpr bool exists = false;
  static constexpr int least_vector_bytes = 0;  ///< of code that may use it
  static bool available() { return false; }
  explicit NoMatrixUnit(bool /*enabled*/) {}
};

#if COTTENTION_CPU_HAS_AMX

/// AMX of x86-64 on Linux, in assembly, since intrinsics would need the compiler's flags for AMX: code for
/// AVX-512 asks the processor.
class AmxUnit {
 public:
  static constexpr bool exists = true;
  static constexpr int least_vector_bytes = 64;

  /// Whether the processor has AMX for bfloat16, and the operating system permits it to this process, which
  /// is asked once.
  static bool available() {
    static const bool permitted = has_instructions() && request_permission();
    return permitted;
  }

  /// Where `enabled`, the calling thread's tiles are configured until the end. Tiles that the caller had
  /// configured are lost.
  explicit AmxUnit(bool enabled) : enabled_(enabled) {
    if (!enabled) return;
    struct alignas(64) Configuration {
      std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
      std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    };
    const Configuration configuration;
    __asm__ volatile("ldtilecfg %0" ::"m"(configuration));
  }
  ~AmxUnit() {
    if (enabled_) __asm__ volatile("tilerelease" ::);
  }
  AmxUnit(const AmxUnit&) = delete;
  AmxUnit& operator=(const AmxUnit&) = delete;

  template <int tile>
  [[gnu::always_inline]] void zero() {
    __asm__ volatile("tilezero %%tmm%c0" ::"i"(tile));
  }
  /// Loads 16 rows of 64 bytes, `stride` bytes apart.
  template <int tile>
  [[gnu::always_inline]] void load(const void* rows, std::ptrdiff_t stride) {
    __asm__ volatile("{tileloadd (%1,%2,1), %%tmm%c0|tileloadd %%tmm%c0, [%1+%2*1]}" ::"i"(tile), "r"(rows),
                     "r"(stride)
                     : "memory");
  }
  template <int tile>
  [[gnu::always_inline]] void store(void* rows, std::ptrdiff_t stride) {
    __asm__ volatile("{tilestored %%tmm%c0, (%1,%2,1)|tilestored [%1+%2*1], %%tmm%c0}" ::"i"(tile), "r"(rows),
                     "r"(stride)
                     : "memory");
  }
  /// c += a b.
  template <int c, int a, int b>
  [[gnu::always_inline]] void multiply() {
    __asm__ volatile(
        "{tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0|tdpbf16ps %%tmm%c0, %%tmm%c1, %%tmm%c2}" ::"i"(c), "i"(a),
        "i"(b));
  }

 private:
  static bool has_instructions() {
    constexpr unsigned os_saves_registers = 1u << 27, amx_bf16 = 1u << 22, amx_tile = 1u << 24;
    constexpr unsigned tile_registers = 3u << 17;  // of XCR0
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & os_saves_registers) == 0) return false;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
    if ((d & amx_bf16) == 0 || (d & amx_tile) == 0) return false;
    unsigned low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & tile_registers) == tile_registers;
  }
  static bool request_permission() {
    constexpr long request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request, tile_data) == 0;
  }

  bool enabled_;
};

#endif
#if defined(COTTENTION_CPU_PORTABLE_TILES)

/// The same arithmetic, bit for bit, in plain C++, for tests on machines without a matrix unit. It is slow.
class PortableUnit {
 public:
  static constexpr bool exists = true;
  static constexpr int least_vector_bytes = 0;
  static bool available() { return true; }

  explicit PortableUnit(bool /*enabled*/) {}
  PortableUnit(const PortableUnit&) = delete;
  PortableUnit& operator=(const PortableUnit&) = delete;

  template <int tile>
  void zero() {
    std::memset(tiles_[tile], 0, sizeof tiles_[tile]);
  }
  template <int tile>
  void load(const void* rows, std::ptrdiff_t stride) {
    for (int r = 0; r < tile_extent; ++r)
      std::memcpy(tiles_[tile][r], static_cast<const std::byte*>(rows) + r * stride, sizeof tiles_[tile][r]);
  }
  template <int tile>
  void store(void* rows, std::ptrdiff_t stride) {
    for (int r = 0; r < tile_extent; ++r)
      std::memcpy(static_cast<std::byte*>(rows) + r * stride, tiles_[tile][r], sizeof tiles_[tile][r]);
  }
  /// Even and odd terms are summed apart, from 0, before their sums are added to c.
  template <int c, int a, int b>
  void multiply() {
    for (int m = 0; m < tile_extent; ++m)
      for (int n = 0; n < tile_extent; ++n) {
        float even = 0, odd = 0;
        for (int k = 0; k < tile_extent; ++k) {
          const std::uint32_t x = tiles_[a][m][k], y = tiles_[b][k][n];
          even = flushed(std::fma(flushed(x << 16), flushed(y << 16), even));
          odd = flushed(std::fma(flushed(x & 0xffff0000u), flushed(y & 0xffff0000u), odd));
        }
        std::uint32_t& sum = tiles_[c][m][n];
        sum = std::bit_cast<std::uint32_t>(flushed(flushed(sum) + flushed(even + odd)));
      }
  }

 private:
  static float flushed(std::uint32_t bits) {
    return std::bit_cast<float>((bits & 0x7f800000u) == 0 ? bits & 0x80000000u : bits);
  }
  static float flushed(float x) { return flushed(std::bit_cast<std::uint32_t>(x)); }

  std::uint32_t tiles_[8][tile_extent][tile_extent] = {};
};

#endif

#if defined(COTTENTION_CPU_PORTABLE_TILES)
using TargetMatrixUnit = PortableUnit;
#elif COTTENTION_CPU_HAS_AMX
using TargetMatrixUnit = AmxUnit;
#else
using TargetMatrixUnit = NoMatrixUnit;
#endif

}  // namespace cottention::cpu
