// wgmma.mma_async for each n: the text of the instruction must list its n / 2 registers. PTX ISA:
// wgmma.mma_async (sm_90a).
#pragma once

#include <concepts>
#include <cstdint>

#include <cuda_runtime.h>

#include <cottention/element.hpp>

namespace cottention::device {

/// d = a b, or d += a b where add is not 0. A transposed operand is one whose major dimension is not the
/// summed one.
template <int n>
struct WgmmaForm;

// The n / 2 accumulators of a lane: their names in the text, operands 0 up, and the operands.
#define COTTENTION_NAMES_8 "%0, %1, %2, %3"
#define COTTENTION_NAMES_16 COTTENTION_NAMES_8 ", %4, %5, %6, %7"
#define COTTENTION_NAMES_24 COTTENTION_NAMES_16 ", %8, %9, %10, %11"
#define COTTENTION_NAMES_32 COTTENTION_NAMES_24 ", %12, %13, %14, %15"
#define COTTENTION_NAMES_40 COTTENTION_NAMES_32 ", %16, %17, %18, %19"
#define COTTENTION_NAMES_48 COTTENTION_NAMES_40 ", %20, %21, %22, %23"
#define COTTENTION_NAMES_56 COTTENTION_NAMES_48 ", %24, %25, %26, %27"
#define COTTENTION_NAMES_64 COTTENTION_NAMES_56 ", %28, %29, %30, %31"
#define COTTENTION_NAMES_72 COTTENTION_NAMES_64 ", %32, %33, %34, %35"
#define COTTENTION_NAMES_80 COTTENTION_NAMES_72 ", %36, %37, %38, %39"
#define COTTENTION_NAMES_88 COTTENTION_NAMES_80 ", %40, %41, %42, %43"
#define COTTENTION_NAMES_96 COTTENTION_NAMES_88 ", %44, %45, %46, %47"
#define COTTENTION_NAMES_104 COTTENTION_NAMES_96 ", %48, %49, %50, %51"
#define COTTENTION_NAMES_112 COTTENTION_NAMES_104 ", %52, %53, %54, %55"
#define COTTENTION_NAMES_120 COTTENTION_NAMES_112 ", %56, %57, %58, %59"
#define COTTENTION_NAMES_128 COTTENTION_NAMES_120 ", %60, %61, %62, %63"
#define COTTENTION_NAMES_136 COTTENTION_NAMES_128 ", %64, %65, %66, %67"
#define COTTENTION_NAMES_144 COTTENTION_NAMES_136 ", %68, %69, %70, %71"
#define COTTENTION_NAMES_152 COTTENTION_NAMES_144 ", %72, %73, %74, %75"
#define COTTENTION_NAMES_160 COTTENTION_NAMES_152 ", %76, %77, %78, %79"
#define COTTENTION_NAMES_168 COTTENTION_NAMES_160 ", %80, %81, %82, %83"
#define COTTENTION_NAMES_176 COTTENTION_NAMES_168 ", %84, %85, %86, %87"
#define COTTENTION_NAMES_184 COTTENTION_NAMES_176 ", %88, %89, %90, %91"
#define COTTENTION_NAMES_192 COTTENTION_NAMES_184 ", %92, %93, %94, %95"
#define COTTENTION_NAMES_200 COTTENTION_NAMES_192 ", %96, %97, %98, %99"
#define COTTENTION_NAMES_208 COTTENTION_NAMES_200 ", %100, %101, %102, %103"
#define COTTENTION_NAMES_216 COTTENTION_NAMES_208 ", %104, %105, %106, %107"
#define COTTENTION_NAMES_224 COTTENTION_NAMES_216 ", %108, %109, %110, %111"
#define COTTENTION_NAMES_232 COTTENTION_NAMES_224 ", %112, %113, %114, %115"
#define COTTENTION_NAMES_240 COTTENTION_NAMES_232 ", %116, %117, %118, %119"
#define COTTENTION_NAMES_248 COTTENTION_NAMES_240 ", %120, %121, %122, %123"
#define COTTENTION_NAMES_256 COTTENTION_NAMES_248 ", %124, %125, %126, %127"

#define COTTENTION_FOUR(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define COTTENTION_SUMS_8 COTTENTION_FOUR(0)
#define COTTENTION_SUMS_16 COTTENTION_SUMS_8, COTTENTION_FOUR(4)
#define COTTENTION_SUMS_24 COTTENTION_SUMS_16, COTTENTION_FOUR(8)
#define COTTENTION_SUMS_32 COTTENTION_SUMS_24, COTTENTION_FOUR(12)
#define COTTENTION_SUMS_40 COTTENTION_SUMS_32, COTTENTION_FOUR(16)
#define COTTENTION_SUMS_48 COTTENTION_SUMS_40, COTTENTION_FOUR(20)
#define COTTENTION_SUMS_56 COTTENTION_SUMS_48, COTTENTION_FOUR(24)
#define COTTENTION_SUMS_64 COTTENTION_SUMS_56, COTTENTION_FOUR(28)
#define COTTENTION_SUMS_72 COTTENTION_SUMS_64, COTTENTION_FOUR(32)
#define COTTENTION_SUMS_80 COTTENTION_SUMS_72, COTTENTION_FOUR(36)
#define COTTENTION_SUMS_88 COTTENTION_SUMS_80, COTTENTION_FOUR(40)
#define COTTENTION_SUMS_96 COTTENTION_SUMS_88, COTTENTION_FOUR(44)
#define COTTENTION_SUMS_104 COTTENTION_SUMS_96, COTTENTION_FOUR(48)
#define COTTENTION_SUMS_112 COTTENTION_SUMS_104, COTTENTION_FOUR(52)
#define COTTENTION_SUMS_120 COTTENTION_SUMS_112, COTTENTION_FOUR(56)
#define COTTENTION_SUMS_128 COTTENTION_SUMS_120, COTTENTION_FOUR(60)
#define COTTENTION_SUMS_136 COTTENTION_SUMS_128, COTTENTION_FOUR(64)
#define COTTENTION_SUMS_144 COTTENTION_SUMS_136, COTTENTION_FOUR(68)
#define COTTENTION_SUMS_152 COTTENTION_SUMS_144, COTTENTION_FOUR(72)
#define COTTENTION_SUMS_160 COTTENTION_SUMS_152, COTTENTION_FOUR(76)
#define COTTENTION_SUMS_168 COTTENTION_SUMS_160, COTTENTION_FOUR(80)
#define COTTENTION_SUMS_176 COTTENTION_SUMS_168, COTTENTION_FOUR(84)
#define COTTENTION_SUMS_184 COTTENTION_SUMS_176, COTTENTION_FOUR(88)
#define COTTENTION_SUMS_192 COTTENTION_SUMS_184, COTTENTION_FOUR(92)
#define COTTENTION_SUMS_200 COTTENTION_SUMS_192, COTTENTION_FOUR(96)
#define COTTENTION_SUMS_208 COTTENTION_SUMS_200, COTTENTION_FOUR(100)
#define COTTENTION_SUMS_216 COTTENTION_SUMS_208, COTTENTION_FOUR(104)
#define COTTENTION_SUMS_224 COTTENTION_SUMS_216, COTTENTION_FOUR(108)
#define COTTENTION_SUMS_232 COTTENTION_SUMS_224, COTTENTION_FOUR(112)
#define COTTENTION_SUMS_240 COTTENTION_SUMS_232, COTTENTION_FOUR(116)
#define COTTENTION_SUMS_248 COTTENTION_SUMS_240, COTTENTION_FOUR(120)
#define COTTENTION_SUMS_256 COTTENTION_SUMS_248, COTTENTION_FOUR(124)

// The sign of a and b is kept (the two ones); then come the transpositions.
#define COTTENTION_FROM_SHARED(n, type, p0, p1, p2, p3, p4)                                              \
  asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " p2                                                \
               ", 0;\n"                                                                                  \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" COTTENTION_NAMES_##n \
               "}, " p0 ", " p1 ", add, 1, 1, " p3 ", " p4 ";\n}"                                        \
               : COTTENTION_SUMS_##n                                                                     \
               : "l"(a), "l"(b), "r"(add), "n"(a_transposed), "n"(b_transposed)                          \
               : "memory")
#define COTTENTION_FROM_REGISTERS(n, type, p0, p1, p2, p3, p4, p5, p6)                                   \
  asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " p5                                                \
               ", 0;\n"                                                                                  \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" COTTENTION_NAMES_##n \
               "}, "                                                                                     \
               "{" p0 ", " p1 ", " p2 ", " p3 "}, " p4 ", add, 1, 1, " p6 ";\n}"                         \
               : COTTENTION_SUMS_##n                                                                     \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(b_transposed)         \
               : "memory")

// p0 to p6: the operands after the sums.
#define COTTENTION_WGMMA(n, p0, p1, p2, p3, p4, p5, p6)                                                     \
  template <>                                                                                               \
  struct WgmmaForm<n> {                                                                                     \
    template <Element T, int a_transposed, int b_transposed>                                                \
    __device__ __forceinline__ static void from_shared(float (&d)[n / 2], std::uint64_t a, std::uint64_t b, \
                                                       int add) {                                           \
      if constexpr (std::same_as<T, half>)                                                                  \
        COTTENTION_FROM_SHARED(n, "f16", p0, p1, p2, p3, p4);                                               \
      else                                                                                                  \
        COTTENTION_FROM_SHARED(n, "bf16", p0, p1, p2, p3, p4);                                              \
    }                                                                                                       \
    template <Element T, int b_transposed>                                                                  \
    __device__ __forceinline__ static void from_registers(float (&d)[n / 2], const std::uint32_t (&a)[4],   \
                                                          std::uint64_t b, int add) {                       \
      if constexpr (std::same_as<T, half>)                                                                  \
        COTTENTION_FROM_REGISTERS(n, "f16", p0, p1, p2, p3, p4, p5, p6);                                    \
      else                                                                                                  \
        COTTENTION_FROM_REGISTERS(n, "bf16", p0, p1, p2, p3, p4, p5, p6);                                   \
    }                                                                                                       \
  }

COTTENTION_WGMMA(8, "%4", "%5", "%6", "%7", "%8", "%9", "%10");
COTTENTION_WGMMA(16, "%8", "%9", "%10", "%11", "%12", "%13", "%14");
COTTENTION_WGMMA(24, "%12", "%13", "%14", "%15", "%16", "%17", "%18");
COTTENTION_WGMMA(32, "%16", "%17", "%18", "%19", "%20", "%21", "%22");
COTTENTION_WGMMA(40, "%20", "%21", "%22", "%23", "%24", "%25", "%26");
COTTENTION_WGMMA(48, "%24", "%25", "%26", "%27", "%28", "%29", "%30");
COTTENTION_WGMMA(56, "%28", "%29", "%30", "%31", "%32", "%33", "%34");
COTTENTION_WGMMA(64, "%32", "%33", "%34", "%35", "%36", "%37", "%38");
COTTENTION_WGMMA(72, "%36", "%37", "%38", "%39", "%40", "%41", "%42");
COTTENTION_WGMMA(80, "%40", "%41", "%42", "%43", "%44", "%45", "%46");
COTTENTION_WGMMA(88, "%44", "%45", "%46", "%47", "%48", "%49", "%50");
COTTENTION_WGMMA(96, "%48", "%49", "%50", "%51", "%52", "%53", "%54");
COTTENTION_WGMMA(104, "%52", "%53", "%54", "%55", "%56", "%57", "%58");
COTTENTION_WGMMA(112, "%56", "%57", "%58", "%59", "%60", "%61", "%62");
COTTENTION_WGMMA(120, "%60", "%61", "%62", "%63", "%64", "%65", "%66");
COTTENTION_WGMMA(128, "%64", "%65", "%66", "%67", "%68", "%69", "%70");
COTTENTION_WGMMA(136, "%68", "%69", "%70", "%71", "%72", "%73", "%74");
COTTENTION_WGMMA(144, "%72", "%73", "%74", "%75", "%76", "%77", "%78");
COTTENTION_WGMMA(152, "%76", "%77", "%78", "%79", "%80", "%81", "%82");
COTTENTION_WGMMA(160, "%80", "%81", "%82", "%83", "%84", "%85", "%86");
COTTENTION_WGMMA(168, "%84", "%85", "%86", "%87", "%88", "%89", "%90");
COTTENTION_WGMMA(176, "%88", "%89", "%90", "%91", "%92", "%93", "%94");
COTTENTION_WGMMA(184, "%92", "%93", "%94", "%95", "%96", "%97", "%98");
COTTENTION_WGMMA(192, "%96", "%97", "%98", "%99", "%100", "%101", "%102");
COTTENTION_WGMMA(200, "%100", "%101", "%102", "%103", "%104", "%105", "%106");
COTTENTION_WGMMA(208, "%104", "%105", "%106", "%107", "%108", "%109", "%110");
COTTENTION_WGMMA(216, "%108", "%109", "%110", "%111", "%112", "%113", "%114");
COTTENTION_WGMMA(224, "%112", "%113", "%114", "%115", "%116", "%117", "%118");
COTTENTION_WGMMA(232, "%116", "%117", "%118", "%119", "%120", "%121", "%122");
COTTENTION_WGMMA(240, "%120", "%121", "%122", "%123", "%124", "%125", "%126");
COTTENTION_WGMMA(248, "%124", "%125", "%126", "%127", "%128", "%129", "%130");
COTTENTION_WGMMA(256, "%128", "%129", "%130", "%131", "%132", "%133", "%134");

#undef COTTENTION_WGMMA
#undef COTTENTION_FROM_REGISTERS
#undef COTTENTION_FROM_SHARED
#undef COTTENTION_FOUR
#undef COTTENTION_NAMES_8
#undef COTTENTION_SUMS_8
#undef COTTENTION_NAMES_16
#undef COTTENTION_SUMS_16
#undef COTTENTION_NAMES_24
#undef COTTENTION_SUMS_24
#undef COTTENTION_NAMES_32
#undef COTTENTION_SUMS_32
#undef COTTENTION_NAMES_40
#undef COTTENTION_SUMS_40
#undef COTTENTION_NAMES_48
#undef COTTENTION_SUMS_48
#undef COTTENTION_NAMES_56
#undef COTTENTION_SUMS_56
#undef COTTENTION_NAMES_64
#undef COTTENTION_SUMS_64
#undef COTTENTION_NAMES_72
#undef COTTENTION_SUMS_72
#undef COTTENTION_NAMES_80
#undef COTTENTION_SUMS_80
#undef COTTENTION_NAMES_88
#undef COTTENTION_SUMS_88
#undef COTTENTION_NAMES_96
#undef COTTENTION_SUMS_96
#undef COTTENTION_NAMES_104
#undef COTTENTION_SUMS_104
#undef COTTENTION_NAMES_112
#undef COTTENTION_SUMS_112
#undef COTTENTION_NAMES_120
#undef COTTENTION_SUMS_120
#undef COTTENTION_NAMES_128
#undef COTTENTION_SUMS_128
#undef COTTENTION_NAMES_136
#undef COTTENTION_SUMS_136
#undef COTTENTION_NAMES_144
#undef COTTENTION_SUMS_144
#undef COTTENTION_NAMES_152
#undef COTTENTION_SUMS_152
#undef COTTENTION_NAMES_160
#undef COTTENTION_SUMS_160
#undef COTTENTION_NAMES_168
#undef COTTENTION_SUMS_168
#undef COTTENTION_NAMES_176
#undef COTTENTION_SUMS_176
#undef COTTENTION_NAMES_184
#undef COTTENTION_SUMS_184
#undef COTTENTION_NAMES_192
#undef COTTENTION_SUMS_192
#undef COTTENTION_NAMES_200
#undef COTTENTION_SUMS_200
#undef COTTENTION_NAMES_208
#undef COTTENTION_SUMS_208
#undef COTTENTION_NAMES_216
#undef COTTENTION_SUMS_216
#undef COTTENTION_NAMES_224
#undef COTTENTION_SUMS_224
#undef COTTENTION_NAMES_232
#undef COTTENTION_SUMS_232
#undef COTTENTION_NAMES_240
#undef COTTENTION_SUMS_240
#undef COTTENTION_NAMES_248
#undef COTTENTION_SUMS_248
#undef COTTENTION_NAMES_256
#undef COTTENTION_SUMS_256

}  // namespace cottention::device
