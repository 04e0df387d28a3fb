// 8 x 8 matrices of 16-bit elements between shared memory and the registers of a warp.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

namespace cottention::device {

[[gnu::always_inline]] inline void ldmatrix_x4(std::uint32_t (&r)[4], const void* row_shared,
                                               emulation::Where where = emulation::Where::current()) {
  emulation::load_matrices(r, row_shared, emulation::Orientation::straight, where);
}

[[gnu::always_inline]] inline void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* row_shared,
                                                     emulation::Where where = emulation::Where::current()) {
  emulation::load_matrices(r, row_shared, emulation::Orientation::transposed, where);
}

[[gnu::always_inline]] inline void stmatrix_x4(void* row_shared, const std::uint32_t (&r)[4],
                                               emulation::Where where = emulation::Where::current()) {
  emulation::store_matrices(row_shared, r, where);
}

}  // namespace cottention::device
