// The recurrence within a chunk: out += tril(a b^T) c, or triu in reverse, rows and columns of the scores
// weighted.
#pragma once

#include <cottention/device/warp.cuh>
#include <cottention/tile/partition.cuh>
#include <cottention/tile/pipeline.cuh>

namespace cottention::tile {

/// v of the chunk from its tile.
template <AnyProblem P, Tiling tiling, class Part = Partition<P, tiling>>
__device__ __forceinline__ typename Part::Values load_values(const typename Part::ValueTile& tile) {
  const Lane lane = Lane::afresh();
  typename Part::Values values;
#pragma unroll
  for (int m = 0; m < Part::warp_column_blocks; ++m)
#pragma unroll
    for (int j = 0; j < Part::term_blocks; ++j)
      values.blocks[m][j] =
          load_columns<Role::right>(tile, j * terms<typename Part::T>, Part::warp_column() + 16 * m, lane);
  return values;
}

/// Whether a row sees a term: in reverse, terms at its own position and later ones.
template <Direction direction>
__device__ __forceinline__ bool sees(int row, int term) {
  return direction == Direction::forward ? term <= row : term >= row;
}

/// What scores are multiplied by besides the factor of their term.
enum class ScoreRows { as_they_are, scaled };

/// scores(i, j) = (a_i . b_j) term_factor_j, and row_factor_i where rows are scaled, if i sees j, else 0.
/// Blocks of 16 x 16 that have such go round the warps; the others are neither written nor read.
template <AnyProblem P, Tiling tiling, Direction direction, ScoreRows score_rows,
          class Part = Partition<P, tiling>>
__device__ __forceinline__ void score(const typename Part::RowTile& a, const typename Part::RowTile& b,
                                      const typename Part::A* row_factor_shared,
                                      const typename Part::A* term_factor_shared,
                                      typename Part::ScoreTile& scores) {
  using T = typename Part::T;
  using A = typename Part::A;
  using Factors = device::Vector<A, 2>;
  constexpr int blocks = Part::row_blocks * (Part::row_blocks + 1) / 2;
  const Lane lane = Lane::afresh();
  const int g = lane.g(), t = lane.t();
  int longer = 0, shorter = device::afresh(device::warp_index());  // row and column of a lower triangle
  for (int block = shorter; block < blocks; block += Part::warps, shorter += Part::warps) {
    while (shorter > longer) shorter -= ++longer;  // row i of the triangle has i + 1 blocks
    const int i = direction == Direction::forward ? longer : shorter;
    const int j = direction == Direction::forward ? shorter : longer;
    Sums<A> sums[2];
    clear(sums[0]);
    clear(sums[1]);
#pragma unroll 4
    for (int k = 0; k < Part::depth; k += terms<T>)
      multiply<T>(sums, operand(load_rows<Role::left>(a, 16 * i, k, lane)),
                  operand(load_rows<Role::right>(b, 16 * j, k, lane)));
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      if (8 * n >= Part::chunk) continue;
      const Factors factors =
          device::load_shared(reinterpret_cast<const Factors*>(term_factor_shared + 16 * j + 8 * n + 2 * t));
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[n].values[e] *= factors[e % 2];
    }
    if constexpr (score_rows == ScoreRows::scaled)
#pragma unroll
      for (int m = 0; m < Part::block_rows / 8; ++m) {
        const A factor = device::load_shared(row_factor_shared + 16 * i + g + 8 * m);
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[e / 2].values[2 * m + e % 2] *= factor;
      }
    if (i == j)
#pragma unroll
      for (int e = 0; e < 8; ++e)
        if (!sees<direction>(g + e / 2 % 2 * 8, 8 * (e / 4) + 2 * t + e % 2))
          sums[e / 4].values[e % 4] = A{0};
#pragma unroll
    for (int m = 0; m < Part::block_rows / 8; ++m)  // a chunk of 8 has one of each
#pragma unroll
      for (int n = 0; n < Part::block_rows / 8; ++n)
        store_pair<T>(scores.at(16 * i + 8 * m, 16 * j + 8 * n, lane.number() / 4, lane.number() % 4 * 2),
                      sums[n].values[2 * m], sums[n].values[2 * m + 1]);
  }
}

namespace detail {

/// blocks[depth_index], `count` there are. Chosen and not indexed: registers have no index.
template <class Part, class Block>
__device__ __forceinline__ Block of_this_depth(const Block* blocks, int count) {
  Block chosen = blocks[0];
#pragma unroll
  for (int d = 1; d < Part::warps_deep && d < count; ++d)
#pragma unroll
    for (int e = 0; e < 4; ++e) chosen.r[e] = Part::depth_index() == d ? blocks[d].r[e] : chosen.r[e];
  return chosen;
}

/// out += scores v on the diagonal block i, term by term: the score 0 of a term that is not seen must not
/// meet an infinity or a NaN.
template <AnyProblem P, Tiling tiling, Direction direction, class Part = Partition<P, tiling>>
__device__ __forceinline__ void attend_diagonal(const typename Part::ScoreTile& scores,
                                                const typename Part::ValueTile& values, int i, int column,
                                                Sums<typename Part::A> (&out)[2]) {
  using T = typename Part::T;
  using A = typename Part::A;
  const Lane lane = Lane::afresh();
  const int g = lane.g(), t = lane.t();
#pragma unroll 1
  for (int j = 16 * i; j < 16 * i + 16 && j < Part::chunk; ++j) {
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const int row = 16 * i + g + e / 2 % 2 * 8, c = column + e / 4 * 8 + 2 * t + e % 2;
      A& sum = out[e / 4].values[e % 4];
      if (sees<direction>(row, j))
        sum = device::fused(device::widen<T>(device::load_shared(scores.at(row, j))),
                            device::widen<T>(device::load_shared(values.at(j, c))), sum);
    }
  }
}

}  // namespace detail

/// out += scores v. Warps that share columns take every so-manieth term.
template <AnyProblem P, Tiling tiling, Direction direction, class Part = Partition<P, tiling>>
__device__ __forceinline__ void attend(const typename Part::ScoreTile& scores,
                                       const typename Part::ValueTile& tile,
                                       const typename Part::Values& values, typename Part::Output& out) {
  using T = typename Part::T;
  const Lane lane = Lane::afresh();
  FiniteWatch<T> watch;
#pragma unroll
  for (int m = 0; m < Part::warp_column_blocks; ++m)
#pragma unroll
    for (int j = 0; j < Part::term_blocks; ++j) watch.see(values.blocks[m][j]);
  const bool diagonal_apart = device::any_lane(!watch.all_finite());
#pragma unroll
  for (int i = 0; i < Part::row_blocks; ++i) {
    constexpr int deep = Part::warps_deep;
    constexpr bool forward = direction == Direction::forward;
    const int begin = forward ? 0 : 16 * i / terms<T>;
    const int end = forward && (16 * i + 16) / terms<T> < Part::term_blocks ? (16 * i + 16) / terms<T>
                                                                            : Part::term_blocks;
#pragma unroll
    for (int first = begin; first < end; first += deep) {
      const int j = first + (deep > 1 ? Part::depth_index() : 0);
      if (deep > 1 && j >= end) continue;
      if (diagonal_apart && (forward ? j * terms<T> >= 16 * i : j * terms<T> < 16 * i + 16)) continue;
      const auto left = operand(load_rows<Role::left>(scores, 16 * i, j * terms<T>, lane));
#pragma unroll
      for (int m = 0; m < Part::warp_column_blocks; ++m)
        multiply<T>(out.sums[i][m], left,
                    operand(detail::of_this_depth<Part>(&values.blocks[m][first], end - first)));
    }
    if (diagonal_apart && Part::depth_index() == 0)
#pragma unroll
      for (int m = 0; m < Part::warp_column_blocks; ++m)
        detail::attend_diagonal<P, tiling, direction>(scores, tile, i, Part::warp_column() + 16 * m,
                                                      out.sums[i][m]);
  }
}

}  // namespace cottention::tile
