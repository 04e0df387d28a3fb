// How a block's part of a head falls to its warps.
//
// The state is kept transposed in registers, H^T (columns, dim_qk). A warp owns `warp_columns` columns of v
// and o, and `warp_depth` of dim_qk: all of it, unless several warps share the columns. Where dim_qk is
// small, elements have 16 bits and the chunk has rows enough, these take rows of o apart, and have the state
// from shared memory (sm80/shared_state.cuh); otherwise they add up their parts of o.
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
  static constexpr int depth = round_up(P::head_dim.qk, block_width* warps_k);  // the rest is zeros
  static constexpr int warp_columns = columns / warps_n;
  static constexpr int warp_depth = depth / warps_k;
  /// Whether warps that share columns have rows of o of their own.
  static constexpr bool splits_m =
      warps_k > 1 && sizeof(T) == 2 && P::head_dim.qk <= 128 && chunk % (block_width * warps_k) == 0;
  static_assert(
      warps % warps_n == 0 && column_fragments % warps_n == 0,
      "cottention: a Tiling's warps must share its columns in equal multiples of 16, several times over "
      "where they are more. Remedy: warps = columns / 16, or leave the tiling to the library.");

  /// The warp. Where lanes have few registers, what follows from it is not kept from place to place.
  static __device__ __forceinline__ unsigned warp() {
    return static_cast<unsigned>(depth <= 64 ? device::warp_index() : device::opaque(device::warp_index()));
  }
  /// First column and first of dim_qk of this warp.
  static __device__ __forceinline__ int warp_column() {
    return static_cast<int>(warp() % warps_n * warp_columns);
  }
  static __device__ __forceinline__ int warp_row() { return static_cast<int>(warp() / warps_n * warp_depth); }
  static __device__ __forceinline__ int warp_k() { return static_cast<int>(warp() / warps_n); }
  /// Of o in the end.
  static __device__ __forceinline__ bool holds_output() { return splits_m || warp_k() == 0; }
  /// The i-th of the warp's blocks of rows of o. To and fro over the warps: early rows see few terms of a
  /// chunk, late ones many.
  static __device__ __forceinline__ int row_block(int i, int warp_k) {
    if constexpr (!splits_m) return i;
    return i * warps_k + (i % 2 == 0 ? warp_k : warps_k - 1 - warp_k);
  }

  using TileAB = Tile<T, chunk, depth>;   // of q or k
  using TileC = Tile<T, chunk, columns>;  // of v
  using ScoreTile = Tile<T, chunk, chunk>;

  static constexpr int block_rows = chunk < 16 ? chunk : 16;
  static constexpr int row_blocks = round_up(chunk, 16) / 16;  // a chunk of 8 fills half of one
  static constexpr int warp_row_blocks = splits_m ? row_blocks / warps_k : row_blocks;
  static constexpr int warp_column_blocks = warp_columns / block_width;
  static constexpr int term_blocks = chunk / mma_k<T>;  // of sums over a chunk

  /// Rows of o, (16 warp_row_blocks, warp_columns).
  struct Output {
    Accumulator<A> sums[warp_row_blocks][warp_column_blocks][2];
  };
  /// v transposed, (warp_columns, chunk): an operand on the right of o's sums, and scaled on the left of
  /// H^T's.
  struct Values {
    Fragment<T, Operand::b> blocks[warp_column_blocks][term_blocks];
  };
};

}  // namespace cottention::sm80
