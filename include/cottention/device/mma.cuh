// Products of small matrices in the tensor cores of a warp, d += a b. PTX ISA: mma.sync.aligned.
//
// With g = lane / 4 and t = lane % 4, a lane holds
//
//                 a                                              b                        d
//     m16n8k16    (g, 2t..), (g+8, 2t..), (g, 2t+8..), (g+8, 2t+8..)   (2t.., g), (2t+8.., g)   (g, 2t..),
//     (g+8, 2t..) m16n8k8     (g, t), (g+8, t), (g, t+4), (g+8, t+4)               (t, g), (t+4, g) (g,
//     2t..), (g+8, 2t..) m8n8k4      (g, t)                                               (t, g) (g, 2t..)
//
// where ".." is that element and the next one, the low half of a register first.
#pragma once

#include <concepts>
#include <cstdint>

#include <cuda_runtime.h>

#include <cottention/element.hpp>

namespace cottention::device {

/// T is half or bfloat16; sums in fp32. PTX ISA: mma.m16n8k16 (sm_80).
template <Element T>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4],
                                             const std::uint32_t (&b)[2]) {
  static_assert(std::same_as<T, half> || std::same_as<T, bfloat16>);
  if constexpr (std::same_as<T, half>)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// Operands are the bits of tf32 numbers (convert.cuh); sums in fp32. PTX ISA: mma.m16n8k8 .tf32 (sm_80).
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4],
                                                 const std::uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// PTX ISA: mma.m8n8k4 .f64 (sm_80).
__device__ __forceinline__ void mma_m8n8k4_f64(double (&d)[2], double a, double b) {
  asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
      : "+d"(d[0]), "+d"(d[1])
      : "d"(a), "d"(b));
}

}  // namespace cottention::device
