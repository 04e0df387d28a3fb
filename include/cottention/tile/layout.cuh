// Where the rows of a tile lie in shared memory.
//
// Rows take a multiple of 128 bytes, a turn around the 32 banks. Within each 128 bytes the 16-byte units are
// permuted by an exclusive or with a function of the row, so that every way in which fragment.cuh reads a
// tile touches each bank once:
//
//     16-bit   ldmatrix: one unit of each of 8 rows
//     32-bit   pairs: 2 units of rows g to g + 3;             single: 2 units of rows 0, 2, 4, 6 or 1, 3, 5,
//     7 64-bit   pairs: 4 units of rows g and g + 1;            single: 2 units of rows 0, 2, 4, 6 or 1, 3,
//     5, 7
#pragma once

#include <cuda_runtime.h>

#include <cottention/element.hpp>

namespace cottention::tile {

__host__ __device__ constexpr int round_up(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// Operands are read in blocks of 16 rows or columns, so columns past the last one are kept and hold zeros.
inline constexpr int block_width = 16;

/// A tile of `rows` x `columns` elements in shared memory. One of 8 rows repeats them, since operands
/// have 16.
template <Element T, int rows_, int columns_>
struct Tile {
  static constexpr int rows = rows_;
  static constexpr int columns = columns_;
  static constexpr int unit = 16 / static_cast<int>(sizeof(T));        // elements in 16 bytes
  static constexpr int units = round_up(columns, block_width) / unit;  // of a row, in use
  static constexpr int pitch = round_up(units, 8) * unit;              // elements from row to row

  alignas(128) T data[rows * pitch];

  static __device__ __forceinline__ int offset(int row, int column) {
    if constexpr (rows < block_width) row %= rows;
    return row * pitch + (((column / unit) ^ permutation(row)) * unit) + column % unit;
  }
  __device__ __forceinline__ T* at(int row, int column) { return data + offset(row, column); }
  __device__ __forceinline__ const T* at(int row, int column) const { return data + offset(row, column); }

 private:
  static __device__ __forceinline__ int permutation(int row) {
    if constexpr (sizeof(T) == 2)
      return row & 7;
    else if constexpr (sizeof(T) == 4)
      return ((row & 3) ^ (row >> 2 & 1)) << 1;
    else
      return ((row >> 1 & 3) ^ (row & 1) << 1) << 1;
  }
};

}  // namespace cottention::tile
