// The partition of a block's work among its warps: warps_n x warps_k. Where several warps share columns
// (warps_k > 1): split-M of the output, or split-K with a reduction.
//
// N is the columns of c, K those of b; the state is transposed, H^T (columns, depth), and a warp holds
// (warp_columns, warp_depth) of it in registers. The output is out = a H, (chunk, depth) x (depth, columns)
// -> (chunk, columns). With warps_k = 1 a warp computes all rows of its columns. Split-M: each of the warps
// that share columns computes its own rows with the whole depth, for which the state is copied to shared
// memory (shared_state.cuh). Split-K: each computes all rows over its warp_depth, and combine() (combine.cuh)
// adds the partial outputs.
#pragma once

#include <cottention/device/thread.cuh>
#include <cottention/problem.hpp>
#include <cottention/sm80/fragment.cuh>
#include <cottention/tiling.hpp>

namespace cottention::sm80 {

template <AnyProblem P, Tiling tiling>
struct Partition {
  using T = typename P::element;
  using A = Accumulate<T>;
  static constexpr int chunk = tiling.chunk;
  static constexpr int warps = tiling.warps;
  static constexpr int threads = warps * device::warp_size;
  static constexpr int stages = tiling.stages;
  static constexpr int columns = tiling.columns;

  static_assert(
      (chunk % 16 == 0 || (chunk == 8 && mma_k<T> == 8)) && chunk > 0 && chunk <= 128,
      "cottention: a Tiling's chunk must be a multiple of 16 up to 128 (or 8 for fp32 and fp64), the rows "
      "of the tensor cores' operands. Remedy: Tiling{.chunk = 64}.");
  static_assert(
      warps >= 1 && warps <= 16 && stages >= 1 && tiling.min_blocks_per_sm >= 1 && columns >= 16 &&
          columns % 16 == 0,
      "cottention: a Tiling needs 1 to 16 warps, at least 1 stage and 1 block, and columns a multiple of 16. "
      "Remedy: leave the tiling to the library.");

  static constexpr int column_fragments = columns / block_width;
  static constexpr int warps_n = warps < column_fragments ? warps : column_fragments;
  static constexpr int warps_k = warps / warps_n;
  static constexpr int depth = round_up(P::head_dim.qk, block_width* warps_k);  // padded by zeros
  static constexpr int warp_columns = columns / warps_n;
  static constexpr int warp_depth = depth / warps_k;
  /// Split-M where elements have 16 bits, the copy of the state leaves room in shared memory (dim_qk up to
  /// 128) and every warp gets whole fragments of rows; otherwise split-K, if warps_k > 1.
  static constexpr bool splits_m =
      warps_k > 1 && sizeof(T) == 2 && P::head_dim.qk <= 128 && chunk % (block_width * warps_k) == 0;
  static_assert(
      warps % warps_n == 0 && column_fragments % warps_n == 0,
      "cottention: a Tiling's warps must share its columns in equal multiples of 16, several times over "
      "where they are more. Remedy: warps = columns / 16, or leave the tiling to the library.");

  /// The index of the warp; opaque for depths whose state leaves lanes few registers.
  static __device__ __forceinline__ unsigned warp() {
    return static_cast<unsigned>(depth <= 64 ? device::warp_index() : device::opaque(device::warp_index()));
  }
  /// First column of c, first column of b (row of H), and index along K, of this warp.
  static __device__ __forceinline__ int warp_column() {
    return static_cast<int>(warp() % warps_n * warp_columns);
  }
  static __device__ __forceinline__ int warp_row() { return static_cast<int>(warp() / warps_n * warp_depth); }
  static __device__ __forceinline__ int warp_k() { return static_cast<int>(warp() / warps_n); }
  /// Whether the warp holds (rows of) the output after combine().
  static __device__ __forceinline__ bool holds_output() { return splits_m || warp_k() == 0; }
  /// The warp's i-th block of 16 rows of the output. With split-M, blocks go to the warps in ascending order
  /// and descending order by turns, since causal rows have the more terms of the chunk the later they are.
  static __device__ __forceinline__ int row_block(int i, int warp_k) {
    if constexpr (!splits_m) return i;
    return i * warps_k + (i % 2 == 0 ? warp_k : warps_k - 1 - warp_k);
  }

  using TileAB = Tile<T, chunk, depth>;     // (chunk, depth) of a or b
  using TileC = Tile<T, chunk, columns>;    // (chunk, columns) of c
  using ScoreTile = Tile<T, chunk, chunk>;  // (chunk, chunk)

  static constexpr int block_rows = chunk < 16 ? chunk : 16;
  static constexpr int row_blocks = round_up(chunk, 16) / 16;  // M blocks; a chunk of 8 fills half of one
  static constexpr int warp_row_blocks = splits_m ? row_blocks / warps_k : row_blocks;
  static constexpr int warp_column_blocks = warp_columns / block_width;
  static constexpr int term_blocks = chunk / mma_k<T>;  // K blocks of sums over a chunk

  /// The warp's accumulators of the output, (16 warp_row_blocks, warp_columns).
  struct Output {
    Accumulator<A> sums[warp_row_blocks][warp_column_blocks][2];  // (16, 8) each
  };
  /// The warp's columns of c, transposed, (warp_columns, chunk): operand b of the output and, scaled, operand
  /// a of H^T.
  struct Values {
    Fragment<T, Operand::b> blocks[warp_column_blocks][term_blocks];  // (16, mma_k<T>) each
  };
};

}  // namespace cottention::sm80
