// 8 x 8 matrices of 16-bit elements between shared memory and the registers of a warp. Scope of all
// functions: warp; barriers inside: 0.
//
// Lane l holds elements (l / 4, 2 (l % 4)) and the one right of it, low half first. Lane l gives the address
// of row l % 8 of matrix l / 8; rows have 16 bytes and are aligned to 16. A row may as well hold four 32-bit
// elements: then lane l holds element (l / 4, l % 4).
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

namespace cottention::device {

/// r[i] = the lane's two elements of matrix i. PTX ISA: ldmatrix.sync.aligned.m8n8.x4 (sm_75).
__device__ __forceinline__ void ldmatrix_x4(std::uint32_t (&r)[4], const void* row_shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row_shared)))
               : "memory");
}

/// r[i] = the lane's two elements of matrix i transposed. PTX ISA: ldmatrix.sync.aligned.m8n8.x4.trans.
__device__ __forceinline__ void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* row_shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row_shared)))
               : "memory");
}

/// Stores r[i], the lane's two elements of matrix i. PTX ISA: stmatrix.sync.aligned.m8n8.x4 (sm_90).
__device__ __forceinline__ void stmatrix_x4(void* row_shared, const std::uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(row_shared))),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}

}  // namespace cottention::device
