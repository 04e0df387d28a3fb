// Products of small matrices in the tensor cores of a warp, d += a b. PTX ISA: mma.sync.aligned. Scope of all
// functions: warp; barriers inside: 0.
//
// With g = lane / 4 and t = lane % 4, the registers of a lane hold these elements in this order; ".." is the
// element named and its right neighbour for a and d, its lower one for b, the low half of a register first:
//
//     m16n8k16   a  (g, 2t..), (g + 8, 2t..), (g, 2t + 8..), (g + 8, 2t + 8..)     (16, 16)
//                b  (2t.., g), (2t + 8.., g)                                       (16, 8)
//                d  (g, 2t..), (g + 8, 2t..)                                       (16, 8)
//     m16n8k8    a  (g, 2t..), (g + 8, 2t..)                                       (16, 8)
//                b  (2t.., g)                                                      (8, 8)
//                d  (g, 2t..), (g + 8, 2t..)                                       (16, 8)
//     m16n8k8    a  (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)                 (16, 8)
//      of tf32   b  (t, g), (t + 4, g)                                             (8, 8)
//                d  (g, 2t..), (g + 8, 2t..)                                       (16, 8)
//     m8n8k4     a  (g, t)                                                         (8, 4)
//                b  (t, g)                                                         (4, 8)
//                d  (g, 2t..)                                                      (8, 8)
#pragma once

#include <concepts>
#include <cstdint>

#include <cuda_runtime.h>

#include <cottention/element.hpp>

namespace cottention::device {

/// (16, 16) x (16, 8) -> (16, 8) of half or bfloat16, accumulated in fp32. PTX ISA: mma.m16n8k16 (sm_80).
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

/// (16, 8) x (8, 8) -> (16, 8) of half or bfloat16, accumulated in fp32. PTX ISA: mma.m16n8k8 (sm_80).
template <Element T>
__device__ __forceinline__ void mma_m16n8k8(float (&d)[4], const std::uint32_t (&a)[2], std::uint32_t b) {
  static_assert(std::same_as<T, half> || std::same_as<T, bfloat16>);
  if constexpr (std::same_as<T, half>)
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(b));
  else
    asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, "
        "%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(b));
}

/// (16, 8) x (8, 8) -> (16, 8) of the bits of tf32 numbers (convert.cuh), accumulated in fp32. PTX ISA:
/// mma.m16n8k8 .tf32 (sm_80).
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4],
                                                 const std::uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// (8, 4) x (4, 8) -> (8, 8) of fp64. PTX ISA: mma.m8n8k4 .f64 (sm_80).
__device__ __forceinline__ void mma_m8n8k4_f64(double (&d)[2], double a, double b) {
  asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
      : "+d"(d[0]), "+d"(d[1])
      : "d"(a), "d"(b));
}

}  // namespace cottention::device
