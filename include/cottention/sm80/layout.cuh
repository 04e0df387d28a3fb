// Where the rows of a tile lie in shared memory.
//
// Rows take a multiple of 128 bytes, a turn around the 32 banks. Within each 128 bytes the 16-byte vecs are
// permuted by an exclusive or with a function of the row, so that every way in which fragment.cuh reads a
// tile touches each bank once:
//
//     16-bit   ldmatrix: one unit of each of 8 rows
//     32-bit   pairs: 2 vecs of rows g to g + 3
//     64-bit   pairs: 4 vecs of rows g and g + 1
//     both     single: 2 vecs of rows 0, 2, 4, 6 or 1, 3, 5, 7
#pragma once

#include <cuda_runtime.h>

#include <cottention/device/memory.cuh>
#include <cottention/element.hpp>

namespace cottention::sm80 {

__host__ __device__ constexpr int round_up(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// Operands are read in blocks of 16 rows or columns, so columns past the last one are kept and hold zeros.
inline constexpr int block_width = 16;

/// A tile of `rows` x `columns` elements in shared memory. One of 8 rows repeats them, since operands
/// have 16.
template <cottention::Element T, int rows_, int columns_>
struct Tile {
  using Element = T;
  static constexpr int rows = rows_;
  static constexpr int columns = columns_;
  static constexpr int vec_size = 16 / static_cast<int>(sizeof(T));       // elements in 16 bytes
  static constexpr int vecs = round_up(columns, block_width) / vec_size;  // of a row, in use
  static constexpr int pitch = round_up(vecs, 8) * vec_size;              // elements from row to row

  alignas(128) T data[rows * pitch];

  static __device__ __forceinline__ int offset(int row, int column) {
    if constexpr (rows < block_width) row %= rows;
    return row * pitch + (((column / vec_size) ^ permutation(row)) * vec_size) + column % vec_size;
  }
  __device__ __forceinline__ T* at(int row, int column) { return data + offset(row, column); }
  __device__ __forceinline__ const T* at(int row, int column) const { return data + offset(row, column); }

  /// at(row + lane_row, column + lane_column) for the lanes of an instruction: `row` a multiple of 8, best
  /// one that the compiler knows, `column` of a power of two above every lane_column. Lanes then keep one
  /// address for a whole tile, to which a row adds and of which a column flips lower bits.
  __device__ __forceinline__ T* at(int row, int column, unsigned lane_row, unsigned lane_column) {
    if constexpr (rows < block_width) row %= rows, lane_row %= rows;
    const unsigned of_lane =
        lane_row * pitch_bytes +
        ((lane_column / vec_size ^ static_cast<unsigned>(permutation(static_cast<int>(lane_row)))) * 16 |
         lane_column % vec_size * static_cast<unsigned>(sizeof(T)));
    const unsigned across = static_cast<unsigned>(column) * static_cast<unsigned>(sizeof(T));
    const unsigned down = static_cast<unsigned>(row) * pitch_bytes + across / turn_bytes * turn_bytes;
    unsigned char* const of_tile = reinterpret_cast<unsigned char*>(data) + of_lane;
    return reinterpret_cast<T*>(device::xor_shared(of_tile, across % turn_bytes) + down);
  }
  __device__ __forceinline__ const T* at(int row, int column, unsigned lane_row, unsigned lane_column) const {
    return const_cast<Tile*>(this)->at(row, column, lane_row, lane_column);
  }

  /// Its rows from `row` on, a multiple of 8 that only runs know.
  static constexpr int block_rows = rows < block_width ? rows : block_width;
  using LowerBlock = Tile<T, block_rows, columns>;
  __device__ __forceinline__ LowerBlock& below(int row) {
    return *reinterpret_cast<LowerBlock*>(data + (rows < block_width ? 0 : row * pitch));
  }
  __device__ __forceinline__ const LowerBlock& below(int row) const {
    return const_cast<Tile*>(this)->below(row);
  }

 private:
  static constexpr unsigned turn_bytes = 128;  // around the banks
  static constexpr unsigned pitch_bytes = pitch * sizeof(T);
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
