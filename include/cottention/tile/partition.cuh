// How a block's part of a head falls to its warps.
//
// The state is kept transposed in registers, H^T (columns, dim_qk). A warp owns `warp_columns` columns of v
// and o, and `warp_depth` of dim_qk: all of it, unless several warps share the columns. Where dim_qk is
// small, elements have 16 bits and the chunk has rows enough, these take rows of o apart, and have the state
// from shared memory (tile/shared_state.cuh); otherwise they add up their parts of o.
#pragma once

#include <cottention/device/thread.cuh>
#include <cottention/problem.hpp>
#include <cottention/tile/fragment.cuh>
#include <cottention/tiling.hpp>

namespace cottention::tile {

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
      (chunk % 16 == 0 || (chunk == 8 && terms<T> == 8)) && chunk > 0 && chunk <= 128,
      "cottention: a Tiling's chunk must be a multiple of 16 up to 128 (or 8 for fp32 and fp64), the rows "
      "of the tensor cores' operands. Remedy: Tiling{.chunk = 64}.");
  static_assert(
      warps >= 1 && warps <= 16 && stages >= 1 && tiling.blocks >= 1 && columns >= 16 && columns % 16 == 0,
      "cottention: a Tiling needs 1 to 16 warps, at least 1 stage and 1 block, and columns a multiple of 16. "
      "Remedy: leave the tiling to the library.");

  static constexpr int column_blocks = columns / block_width;
  static constexpr int warps_across = warps < column_blocks ? warps : column_blocks;
  static constexpr int warps_deep = warps / warps_across;
  static constexpr int depth = round_up(P::head_dim.qk, block_width* warps_deep);  // the rest is zeros
  static constexpr int warp_columns = columns / warps_across;
  static constexpr int warp_depth = depth / warps_deep;
  /// Whether warps that share columns have rows of o of their own.
  static constexpr bool rows_apart =
      warps_deep > 1 && sizeof(T) == 2 && P::head_dim.qk <= 128 && chunk % (block_width * warps_deep) == 0;
  static_assert(
      warps % warps_across == 0 && column_blocks % warps_across == 0,
      "cottention: a Tiling's warps must share its columns in equal multiples of 16, several times over "
      "where they are more. Remedy: warps = columns / 16, or leave the tiling to the library.");

  /// The warp. Where lanes have few registers, what follows from it is not kept from place to place.
  static __device__ __forceinline__ unsigned warp() {
    return static_cast<unsigned>(depth <= 64 ? device::warp_index() : device::opaque(device::warp_index()));
  }
  /// First column and first of dim_qk of this warp.
  static __device__ __forceinline__ int warp_column() {
    return static_cast<int>(warp() % warps_across * warp_columns);
  }
  static __device__ __forceinline__ int warp_row() {
    return static_cast<int>(warp() / warps_across * warp_depth);
  }
  static __device__ __forceinline__ int depth_index() { return static_cast<int>(warp() / warps_across); }
  /// Of o in the end.
  static __device__ __forceinline__ bool holds_output() { return rows_apart || depth_index() == 0; }
  /// The i-th of the warp's blocks of rows of o. To and fro over the warps: early rows see few terms of a
  /// chunk, late ones many.
  static __device__ __forceinline__ int row_block(int i, int depth_index) {
    if constexpr (!rows_apart) return i;
    return i * warps_deep + (i % 2 == 0 ? depth_index : warps_deep - 1 - depth_index);
  }

  using RowTile = Tile<T, chunk, depth>;      // of q or k
  using ValueTile = Tile<T, chunk, columns>;  // of v
  using ScoreTile = Tile<T, chunk, chunk>;

  static constexpr int block_rows = chunk < 16 ? chunk : 16;
  static constexpr int row_blocks = round_up(chunk, 16) / 16;  // a chunk of 8 fills half of one
  static constexpr int warp_row_blocks = rows_apart ? row_blocks / warps_deep : row_blocks;
  static constexpr int warp_column_blocks = warp_columns / block_width;
  static constexpr int term_blocks = chunk / terms<T>;  // of sums over a chunk

  /// Rows of o, (16 warp_row_blocks, warp_columns).
  struct Output {
    Sums<A> sums[warp_row_blocks][warp_column_blocks][2];
  };
  /// v transposed, (warp_columns, chunk): an operand on the right of o's sums, and scaled on the left of
  /// H^T's.
  struct Values {
    Block<T, Role::right> blocks[warp_column_blocks][term_blocks];
  };
};

}  // namespace cottention::tile
