// The intra-chunk products: out += tril(a b^T) c, or triu in reverse, with factors for rows and columns of
// the scores. score() computes scores (chunk, chunk) in shared memory, attend() multiplies them by c.
#pragma once

#include <cottention/device/warp.cuh>
#include <cottention/sm80/measure.cuh>
#include <cottention/sm80/output.cuh>
#include <cottention/sm80/partition.cuh>
#include <cottention/sm80/pending.cuh>
#include <cottention/sm80/pipeline.cuh>
#include <cottention/tile/scores.cuh>

namespace cottention::sm80 {

/// The warp's columns of c, transposed, (warp_columns, chunk) in registers, from the tile (chunk, columns).
/// Scope: warp; barriers inside: 0.
template <AnyProblem P, Tiling tiling, class Part = Partition<P, tiling>>
__device__ __forceinline__ typename Part::Values load_values(const typename Part::TileC& tile) {
  const tile::Lane lane = tile::Lane::opaque();
  const int column = Part::warp_column();
  typename Part::Values values;
#pragma unroll
  for (int m = 0; m < Part::warp_column_blocks; ++m)
#pragma unroll
    for (int j = 0; j < Part::term_blocks; ++j)
      values.blocks[m][j] =
          load_columns<Operand::b>(tile, j * mma_k<typename Part::T>, column + 16 * m, lane);
  return values;
}

/// Whether scores are multiplied by the factor of their row besides that of their term.
enum class ScoreRows { unscaled, scaled };

/// Which part of the scores score() stores: rounded to T, or the rest, which is the rounding error times
/// tile::rest_scale<T>. LeadingChunks (tile/counts.cuh) need both: the rounding errors of few scores do not
/// average out.
enum class ScorePart { rounded, rest };

namespace detail {

/// Multiplies accumulators (16, 16) of rows 16 i, ... and terms 16 j, ... by the factors (chunk) of terms and
/// rows.
template <class Part, ScoreRows score_rows>
__device__ __forceinline__ void multiply_by_factors(
    Accumulator<typename Part::A> (&sums)[2], int i, int j, const typename Part::A* row_factor_shared,
    const tile::TermFactors<typename Part::T, Part::chunk>& term_factors, tile::Lane lane) {
  using A = typename Part::A;
  using Factors = device::Vector<A, 2>;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    if (8 * n >= Part::chunk) continue;
    const Factors factors = device::load_shared(
        reinterpret_cast<const Factors*>(term_factors.full + 16 * j + 8 * n + 2 * lane.t()));
#pragma unroll
    for (int e = 0; e < 4; ++e) sums[n].values[e] *= factors[e % 2];
  }
  if constexpr (score_rows == ScoreRows::scaled)
#pragma unroll
    for (int m = 0; m < Part::block_rows / 8; ++m) {
      const A factor = device::load_shared(row_factor_shared + 16 * i + lane.g() + 8 * m);
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[e / 2].values[2 * m + e % 2] *= factor;
    }
}

}  // namespace detail

/// scores(i, j) = (a_i . b_j) term_factor_j, times row_factor_i where rows are scaled, if row i sees term j,
/// else 0: (chunk, depth) x (chunk, depth)^T -> (chunk, chunk). Fragments (16, 16) with a visible term go to
/// the warps in order, beginning with warp `first_warp`; the others are neither written nor read. With
/// `exact_diagonal` the rest has the errors of the sums a_i . b_i too: where a row sees few terms, a score
/// far below its products is all of the output. Scope: block; barriers inside: 0. A barrier must be between
/// earlier reads of `scores` and it, and between it and attend().
template <AnyProblem P, Tiling tiling, recurrence::Direction direction, ScoreRows score_rows,
          ScorePart part = ScorePart::rounded, class Part = Partition<P, tiling>>
__device__ __forceinline__ void score(const typename Part::TileAB& a, const typename Part::TileAB& b,
                                      const typename Part::A* row_factor_shared,
                                      const tile::TermFactors<typename Part::T, Part::chunk>& term_factors,
                                      typename Part::ScoreTile& scores, int first_warp = 0,
                                      [[maybe_unused]] bool exact_diagonal = false) {
  using T = typename Part::T;
  using A = typename Part::A;
  constexpr int blocks = Part::row_blocks * (Part::row_blocks + 1) / 2;
  const int rotated_warp = (device::warp_index() + Part::warps - first_warp % Part::warps) % Part::warps;
  int tri_row = 0, tri_column = device::opaque(rotated_warp);  // of the lower triangle of fragments
  for (int block = tri_column; block < blocks; block += Part::warps, tri_column += Part::warps) {
    while (tri_column > tri_row) tri_column -= ++tri_row;  // row i of the triangle has i + 1 fragments
    const int i = direction == recurrence::Direction::forward ? tri_row : tri_column;
    const int j = direction == recurrence::Direction::forward ? tri_column : tri_row;
    const tile::Lane lane = tile::Lane::opaque();
    const int g = lane.g(), t = lane.t();
    const auto &a_rows = a.below(16 * i), &b_rows = b.below(16 * j);
    Accumulator<A> sums[2];
    set_to_zero(sums[0]);
    set_to_zero(sums[1]);
    Pending<T> pending;
    set_to_zero(pending);
    constexpr int chain = chain_of<T>(Part::depth / mma_k<T>);
#pragma unroll(4 / chain)
    for (int k = 0; k < Part::depth; k += chain * mma_k<T>) {
#pragma unroll
      for (int e = 0; e < chain * mma_k<T>; e += mma_k<T>)
        multiply<T>(sums, pending, to_operand(load_rows<Operand::a>(a_rows, 0, k + e, lane)),
                    to_operand(load_rows<Operand::b>(b_rows, 0, k + e, lane)));
      fold<T>(sums, pending, Chain::further);
    }
    finish<T>(sums, pending);
    const auto row_of = [g](int e) { return g + e / 2 % 2 * 8; };
    const auto term_of = [t](int e) { return 8 * (e / 4) + 2 * t + e % 2; };
    [[maybe_unused]] Accumulator<A> lost[2];
    if constexpr (part == ScorePart::rest) {
      set_to_zero(lost[0]);
      set_to_zero(lost[1]);
      if (exact_diagonal && i == j) {
        A dots[2];
        tile::dots_of_rows(a_rows, b_rows, lane, dots);
#pragma unroll
        for (int e = 0; e < 8; ++e)
          if (row_of(e) == term_of(e))
            lost[e / 4].values[e % 4] = dots[e / 2 % 2] - sums[e / 4].values[e % 4];
        detail::multiply_by_factors<Part, score_rows>(lost, i, j, row_factor_shared, term_factors, lane);
      }
    }
    detail::multiply_by_factors<Part, score_rows>(sums, i, j, row_factor_shared, term_factors, lane);
    if constexpr (part == ScorePart::rest)
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        A& sum = sums[e / 4].values[e % 4];
        const A rounded = device::widen<T>(device::narrow<T>(sum));
        const bool finite = rounded - rounded == A{0};  // a score that overflows T has no rest
        sum = finite ? (sum - rounded + lost[e / 4].values[e % 4]) * tile::rest_scale<T> : A{0};
      }
    if (i == j)
#pragma unroll
      for (int e = 0; e < 8; ++e)
        if (!tile::is_visible<direction>(row_of(e), term_of(e))) sums[e / 4].values[e % 4] = A{0};
#pragma unroll
    for (int m = 0; m < Part::block_rows / 8; ++m)  // a chunk of 8 has 8 rows and 8 terms
#pragma unroll
      for (int n = 0; n < Part::block_rows / 8; ++n)
        store_pair<T>(
            scores.below(16 * i).at(8 * m, 16 * j + 8 * n, lane.number() / 4, lane.number() % 4 * 2),
            sums[n].values[2 * m], sums[n].values[2 * m + 1]);
  }
}

namespace detail {

/// blocks[warp_k] of `count` fragments where warps_k warps share columns, else blocks[0]. By selection, since
/// registers cannot be indexed at run time.
template <int warps_k, class F>
__device__ __forceinline__ F select_by_warp_k(const F* blocks, int count, int warp_k) {
  F chosen = blocks[0];
#pragma unroll
  for (int d = 1; d < warps_k && d < count; ++d)
#pragma unroll
    for (int e = 0; e < 4; ++e) chosen.r[e] = warp_k == d ? blocks[d].r[e] : chosen.r[e];
  return chosen;
}

/// out (16, 16) += scores c for the rows and terms `top`, ..., top + 15 and columns `column`, ..., term by
/// term: 0, the score of a masked term, must not be multiplied by an infinity or a NaN. Scope: warp; barriers
/// inside: 0.
template <AnyProblem P, Tiling tiling, recurrence::Direction direction, class Part = Partition<P, tiling>>
__device__ __forceinline__ void attend_diagonal(const typename Part::ScoreTile& scores,
                                                const typename Part::TileC& values, int top, int column,
                                                Accumulator<typename Part::A> (&out)[2]) {
  using T = typename Part::T;
  using A = typename Part::A;
  const tile::Lane lane = tile::Lane::opaque();
  const int g = lane.g(), t = lane.t();
#pragma unroll 1
  for (int j = top; j < top + 16 && j < Part::chunk; ++j) {
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const int row = top + g + e / 2 % 2 * 8, c = column + e / 4 * 8 + 2 * t + e % 2;
      A& sum = out[e / 4].values[e % 4];
      if (tile::is_visible<direction>(row, j))
        sum = device::fma(device::widen<T>(device::load_shared(scores.at(row, j))),
                          device::widen<T>(device::load_shared(values.at(j, c))), sum);
    }
  }
}

}  // namespace detail

/// Whether the warp's columns of c (warp_columns, chunk) are finite, in all lanes. Scope: warp; barriers
/// inside: 0.
template <AnyProblem P, Tiling tiling, class Part = Partition<P, tiling>>
__device__ __forceinline__ bool all_finite(const typename Part::Values& values) {
  FiniteCheck<typename Part::T> check;
#pragma unroll
  for (int m = 0; m < Part::warp_column_blocks; ++m)
#pragma unroll
    for (int j = 0; j < Part::term_blocks; ++j) check.add(values.blocks[m][j]);
  return !device::any_lane(!check.all_finite());
}

/// out += scores c, (chunk, chunk) x (chunk, warp_columns) -> (chunk, warp_columns); `finite` as all_finite()
/// has it. With split-M a warp computes its own rows; with split-K, warp_k computes every warps_k-th fragment
/// of terms, beginning with its warp_k-th, for all rows. Scope: warp; barriers inside: 0.
template <AnyProblem P, Tiling tiling, recurrence::Direction direction, class Part = Partition<P, tiling>>
__device__ __forceinline__ void attend(const typename Part::ScoreTile& scores,
                                       const typename Part::TileC& tile, const typename Part::Values& values,
                                       bool finite, typename Part::Output& out) {
  using T = typename Part::T;
  const tile::Lane lane = tile::Lane::opaque();
  const int warp_k = Part::warp_k();
#pragma unroll
  for (int i = 0; i < Part::warp_row_blocks; ++i) {
    constexpr int k_split = Part::splits_m ? 1 : Part::warps_k;
    constexpr bool forward = direction == recurrence::Direction::forward;
    const int top = 16 * Part::row_block(i, warp_k);
    // Fragments of terms `begin`, ..., end - 1 have terms that the rows see: forward the first ones, in
    // reverse the last ones. With split-M rows depend on the warp, and `edge` replaces these constants.
    const int before = forward ? (top + 16) / mma_k<T> : top / mma_k<T>;
    const int begin = forward || Part::splits_m ? 0 : before;
    const int end = forward && !Part::splits_m && before < Part::term_blocks ? before : Part::term_blocks;
    int edge = 0;  // where the fragments that the tensor cores multiply end (forward) or begin
    if constexpr (Part::splits_m)
      edge = device::opaque(finite ? before : forward ? top / mma_k<T> : (top + 16) / mma_k<T>);
    Pending<T> pending[Part::warp_column_blocks];
#pragma unroll
    for (int m = 0; m < Part::warp_column_blocks; ++m) set_to_zero(pending[m]);
#pragma unroll
    for (int first = begin; first < end; first += k_split) {
      if (first > begin && (first - begin) / k_split % chain_blocks == 0)
#pragma unroll
        for (int m = 0; m < Part::warp_column_blocks; ++m)
          fold<T>(out.sums[i][m], pending[m], Chain::further);
      const int j = first + (k_split > 1 ? warp_k : 0);
      if (k_split > 1 && j >= end) continue;
      // Where c is not finite, attend_diagonal() computes the fragments of the diagonal, which have masked
      // terms.
      if constexpr (Part::splits_m) {
        if (forward ? j >= edge : j < edge) continue;
      } else if (!finite && j * mma_k<T> >= top && j * mma_k<T> < top + 16) {
        continue;
      }
      const auto left = to_operand(load_rows<Operand::a>(scores.below(top), 0, j * mma_k<T>, lane));
#pragma unroll
      for (int m = 0; m < Part::warp_column_blocks; ++m)
        multiply<T>(
            out.sums[i][m], pending[m], left,
            to_operand(detail::select_by_warp_k<k_split>(&values.blocks[m][first], end - first, warp_k)));
    }
#pragma unroll
    for (int m = 0; m < Part::warp_column_blocks; ++m) {
      fold<T>(out.sums[i][m], pending[m], Chain::further);
      finish<T>(out.sums[i][m], pending[m]);
    }
    if (!finite && Part::holds_output())
#pragma unroll
      for (int m = 0; m < Part::warp_column_blocks; ++m)
        detail::attend_diagonal<P, tiling, direction>(scores, tile, top, Part::warp_column() + 16 * m,
                                                      out.sums[i][m]);
  }
}

/// out += (rest of the scores) c, with the arguments of the score() and attend() before it, for 16-bit
/// elements. It overwrites `scores`. Scope: block; barriers inside: 2.
template <AnyProblem P, Tiling tiling, recurrence::Direction direction, ScoreRows score_rows,
          class Part = Partition<P, tiling>>
__device__ __forceinline__ void attend_rest(
    const typename Part::TileAB& a, const typename Part::TileAB& b, const typename Part::A* row_factor_shared,
    const tile::TermFactors<typename Part::T, Part::chunk>& term_factors, typename Part::ScoreTile& scores,
    const typename Part::TileC& tile, const typename Part::Values& values, bool finite, bool exact_diagonal,
    typename Part::Output& out) {
  constexpr auto scale = tile::rest_scale<typename Part::T>;
  device::sync_block();  // scores are read
  score<P, tiling, direction, score_rows, ScorePart::rest>(a, b, row_factor_shared, term_factors, scores, 0,
                                                           exact_diagonal);
  device::sync_block();  // the rest of the scores is written
  if constexpr (scale != 1) scale_all<Part>(out, scale);
  attend<P, tiling, direction>(scores, tile, values, finite, out);
  if constexpr (scale != 1) scale_all<Part>(out, 1 / scale);
}

}  // namespace cottention::sm80
