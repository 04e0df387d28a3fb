// The layout of a tile in shared memory.
//
// Rows take a multiple of 128 bytes, one cycle of the 32 banks of 4 bytes. The 16-byte vectors in each 128
// bytes are swizzled by the xor of their index with a function of the row, so that the lanes that one pass
// over shared memory serves touch each bank once, in every access of fragment.cuh:
//
//     16-bit elements             ldmatrix: one vector of each of 8 rows
//     32-bit elements             pairs: 2 vectors of each of rows g to g + 3
//     64-bit elements             pairs: 4 vectors of each of rows g and g + 1
//     32-bit and 64-bit elements  single ones: 2 vectors of each of rows 0, 2, 4, 6 or 1, 3, 5, 7
#pragma once

#include <cuda_runtime.h>

#include <cottention/device/memory.cuh>
#include <cottention/element.hpp>

namespace cottention::sm80 {

__host__ __device__ constexpr int round_up(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// Fragments of operands have 16 rows or columns, so a tile's columns are padded to a multiple of 16; the
/// padding holds zeros.
inline constexpr int block_width = 16;

/// A tile (rows, columns) of elements in shared memory. A tile of 8 rows has row r at r + 8 too, since
/// fragments have 16 rows.
template <cottention::Element T, int rows_, int columns_>
struct Tile {
  using Element = T;
  static constexpr int rows = rows_;
  static constexpr int columns = columns_;
  static constexpr int vec_size = 16 / static_cast<int>(sizeof(T));       // elements in 16 bytes
  static constexpr int vecs = round_up(columns, block_width) / vec_size;  // 16-byte vectors of a row
  static constexpr int pitch = round_up(vecs, 8) * vec_size;              // elements from row to row

  alignas(128) T data[rows * pitch];  // (rows, pitch)

  /// Where element (row, column) lies, in elements from `data`.
  static __device__ __forceinline__ int offset(int row, int column) {
    if constexpr (rows < block_width) row %= rows;
    return row * pitch + (((column / vec_size) ^ permutation(row)) * vec_size) + column % vec_size;
  }
  __device__ __forceinline__ T* at(int row, int column) { return data + offset(row, column); }
  __device__ __forceinline__ const T* at(int row, int column) const { return data + offset(row, column); }

  /// at(row + lane_row, column + lane_column), where lane_row and lane_column depend on the lane alone, `row`
  /// is a multiple of 8, and `column` one of a power of two above every lane_column. Lanes then keep one
  /// address for a whole tile: `row` is an addition and `column` a xor, both part of the instruction where
  /// the compiler knows them.
  __device__ __forceinline__ T* at(int row, int column, unsigned lane_row, unsigned lane_column) {
    if constexpr (rows < block_width) row %= rows, lane_row %= rows;
    const unsigned lane_bytes =
        lane_row * pitch_bytes +
        ((lane_column / vec_size ^ static_cast<unsigned>(permutation(static_cast<int>(lane_row)))) * 16 |
         lane_column % vec_size * static_cast<unsigned>(sizeof(T)));
    const unsigned column_bytes = static_cast<unsigned>(column) * static_cast<unsigned>(sizeof(T));
    const unsigned row_bytes =
        static_cast<unsigned>(row) * pitch_bytes + column_bytes / bank_cycle_bytes * bank_cycle_bytes;
    unsigned char* const lane_data = reinterpret_cast<unsigned char*>(data) + lane_bytes;
    return reinterpret_cast<T*>(device::xor_shared(lane_data, column_bytes % bank_cycle_bytes) + row_bytes);
  }
  __device__ __forceinline__ const T* at(int row, int column, unsigned lane_row, unsigned lane_column) const {
    return const_cast<Tile*>(this)->at(row, column, lane_row, lane_column);
  }

  static constexpr int block_rows = rows < block_width ? rows : block_width;
  using LowerBlock = Tile<T, block_rows, columns>;
  /// The tile of the rows from `row` on, for a `row`, a multiple of 8, that the compiler need not know.
  __device__ __forceinline__ LowerBlock& below(int row) {
    return *reinterpret_cast<LowerBlock*>(data + (rows < block_width ? 0 : row * pitch));
  }
  __device__ __forceinline__ const LowerBlock& below(int row) const {
    return const_cast<Tile*>(this)->below(row);
  }

 private:
  static constexpr unsigned bank_cycle_bytes = 128;  // 32 banks of 4 bytes
  static constexpr unsigned pitch_bytes = pitch * sizeof(T);
  /// What the index of a vector within 128 bytes is xored with.
  static __device__ __forceinline__ int permutation(int row) {
    if constexpr (sizeof(T) == 2)
      return row & 7;
    else if constexpr (sizeof(T) == 4)
      return ((row & 3) ^ (row >> 2 & 1)) << 1;
    else
      return ((row >> 1 & 3) ^ (row & 1) << 1) << 1;
  }
};

}  // namespace cottention::sm80
