// The recurrence within a chunk: out += tril(a b^T) c, or triu in reverse, rows and columns of the scores
// weighted.
#pragma once

#include <cottention/device/warp.cuh>
#include <cottention/sm80/measure.cuh>
#include <cottention/sm80/output.cuh>
#include <cottention/sm80/partition.cuh>
#include <cottention/sm80/pending.cuh>
#include <cottention/sm80/pipeline.cuh>

namespace cottention::sm80 {

/// v of the chunk from its tile.
template <AnyProblem P, Tiling tiling, class Part = Partition<P, tiling>>
__device__ __forceinline__ typename Part::Values load_values(const typename Part::TileC& tile) {
  const Lane lane = Lane::opaque();
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

/// Whether a row is_visible a term: in reverse, terms at its own position and later ones.
template <tile::Direction direction>
__device__ __forceinline__ bool is_visible(int row, int term) {
  return direction == tile::Direction::forward ? term <= row : term >= row;
}

/// What scores are multiplied by besides the factor of their term.
enum class ScoreRows { unscaled, scaled };

/// What is written of scores: as T holds them, or what that rounds off, times rest_scale<T>. Chunks that few
/// terms come before need both: the roundings of few scores do not average out.
enum class ScorePart { rounded, rest };

/// What is rounded off a half may lie below its range.
template <Element T>
inline constexpr Accumulate<T> rest_scale{std::same_as<T, half> ? 0x1p11 : 1};

namespace detail {

/// sum + off += x, the rounding of the sum in `off`.
__device__ __forceinline__ void add_exactly(float x, float& sum, float& off) {
  const float before = sum;
  sum += x;
  const float added = sum - before;
  off += (before - (sum - added)) + (x - added);
}

/// Sums of rows 16 i, ... with terms 16 j, ... become scores.
template <class Part, ScoreRows score_rows>
__device__ __forceinline__ void multiply_by_factors(
    Accumulator<typename Part::A> (&sums)[2], int i, int j, const typename Part::A* row_factor_shared,
    const TermFactors<typename Part::T, Part::chunk>& term_factors, Lane lane) {
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

/// a_r . b_r for the rows r = g and g + 8 of two blocks, rounded once: fp32 holds products of 16-bit
/// elements.
template <class Rows>
__device__ __forceinline__ void dots_of_rows(const Rows& a, const Rows& b, Lane lane, float (&dots)[2]) {
  using T = typename Rows::Element;
  const auto load = [](const T* from) {
    return device::load_shared(reinterpret_cast<const tile::Vec<T>*>(from));
  };
#pragma unroll
  for (int lower = 0; lower < 2; ++lower) {
    const int row = lane.g() + 8 * lower;
    float sum = 0, off = 0;
#pragma unroll 1
    for (int c = lane.t() * Rows::vec_size; c < Rows::columns; c += 4 * Rows::vec_size) {
      const tile::Vec<T> x = load(a.at(row, c)), y = load(b.at(row, c));
#pragma unroll
      for (int e = 0; e < Rows::vec_size; ++e)
        add_exactly(tile::element<T>(x, e) * tile::element<T>(y, e), sum, off);
    }
#pragma unroll
    for (int distance = 1; distance < 4; distance *= 2) {
      off += device::shuffle_xor(off, distance);
      add_exactly(device::shuffle_xor(sum, distance), sum, off);
    }
    dots[lower] = sum + off;
  }
}

}  // namespace detail

/// scores(i, j) = (a_i . b_j) term_factor_j, and row_factor_i where rows are scaled, if i is_visible j, else
/// 0. Blocks of 16 x 16 that have such go round the warps, beginning with warp `from`; the others are neither
/// written nor read. The rest makes up, `exactly`, for what summing has lost of scores (i, i), too: a lone
/// score may be far below its terms.
template <AnyProblem P, Tiling tiling, tile::Direction direction, ScoreRows score_rows,
          ScorePart part = ScorePart::rounded, class Part = Partition<P, tiling>>
__device__ __forceinline__ void score(const typename Part::TileAB& a, const typename Part::TileAB& b,
                                      const typename Part::A* row_factor_shared,
                                      const TermFactors<typename Part::T, Part::chunk>& term_factors,
                                      typename Part::ScoreTile& scores, int from = 0,
                                      [[maybe_unused]] bool exactly = false) {
  using T = typename Part::T;
  using A = typename Part::A;
  constexpr int blocks = Part::row_blocks * (Part::row_blocks + 1) / 2;
  const int turn = (device::warp_index() + Part::warps - from % Part::warps) % Part::warps;
  int longer = 0, shorter = device::opaque(turn);  // row and column of a lower triangle
  for (int block = shorter; block < blocks; block += Part::warps, shorter += Part::warps) {
    while (shorter > longer) shorter -= ++longer;  // row i of the triangle has i + 1 blocks
    const int i = direction == tile::Direction::forward ? longer : shorter;
    const int j = direction == tile::Direction::forward ? shorter : longer;
    const Lane lane = Lane::opaque();
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
      if (exactly && i == j) {
        A dots[2];
        detail::dots_of_rows(a_rows, b_rows, lane, dots);
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
        const bool finite = rounded - rounded == A{0};  // past the range of T there is no rest
        sum = finite ? (sum - rounded + lost[e / 4].values[e % 4]) * rest_scale<T> : A{0};
      }
    if (i == j)
#pragma unroll
      for (int e = 0; e < 8; ++e)
        if (!is_visible<direction>(row_of(e), term_of(e))) sums[e / 4].values[e % 4] = A{0};
#pragma unroll
    for (int m = 0; m < Part::block_rows / 8; ++m)  // a chunk of 8 has one of each
#pragma unroll
      for (int n = 0; n < Part::block_rows / 8; ++n)
        store_pair<T>(
            scores.below(16 * i).at(8 * m, 16 * j + 8 * n, lane.number() / 4, lane.number() % 4 * 2),
            sums[n].values[2 * m], sums[n].values[2 * m + 1]);
  }
}

namespace detail {

/// The first of `count` blocks; where `deep` warps take turns, blocks[warp_k]. Chosen and not indexed:
/// registers have no index.
template <int deep, class F>
__device__ __forceinline__ F of_this_depth(const F* blocks, int count, int warp_k) {
  F chosen = blocks[0];
#pragma unroll
  for (int d = 1; d < deep && d < count; ++d)
#pragma unroll
    for (int e = 0; e < 4; ++e) chosen.r[e] = warp_k == d ? blocks[d].r[e] : chosen.r[e];
  return chosen;
}

/// out += scores v on the block of the diagonal at row `top`, term by term: the score 0 of a term that is not
/// seen must not meet an infinity or a NaN.
template <AnyProblem P, Tiling tiling, tile::Direction direction, class Part = Partition<P, tiling>>
__device__ __forceinline__ void attend_diagonal(const typename Part::ScoreTile& scores,
                                                const typename Part::TileC& values, int top, int column,
                                                Accumulator<typename Part::A> (&out)[2]) {
  using T = typename Part::T;
  using A = typename Part::A;
  const Lane lane = Lane::opaque();
  const int g = lane.g(), t = lane.t();
#pragma unroll 1
  for (int j = top; j < top + 16 && j < Part::chunk; ++j) {
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const int row = top + g + e / 2 % 2 * 8, c = column + e / 4 * 8 + 2 * t + e % 2;
      A& sum = out[e / 4].values[e % 4];
      if (is_visible<direction>(row, j))
        sum = device::fma(device::widen<T>(device::load_shared(scores.at(row, j))),
                          device::widen<T>(device::load_shared(values.at(j, c))), sum);
    }
  }
}

}  // namespace detail

/// Whether all that any lane of the warp holds of v is finite.
template <AnyProblem P, Tiling tiling, class Part = Partition<P, tiling>>
__device__ __forceinline__ bool all_finite(const typename Part::Values& values) {
  FiniteCheck<typename Part::T> watch;
#pragma unroll
  for (int m = 0; m < Part::warp_column_blocks; ++m)
#pragma unroll
    for (int j = 0; j < Part::term_blocks; ++j) watch.see(values.blocks[m][j]);
  return !device::any_lane(!watch.all_finite());
}

/// out += scores v, `finite` if v is. Warps that add up their parts of o take every so-manieth term.
template <AnyProblem P, Tiling tiling, tile::Direction direction, class Part = Partition<P, tiling>>
__device__ __forceinline__ void attend(const typename Part::ScoreTile& scores,
                                       const typename Part::TileC& tile, const typename Part::Values& values,
                                       bool finite, typename Part::Output& out) {
  using T = typename Part::T;
  const Lane lane = Lane::opaque();
  const int depth = Part::warp_k();
#pragma unroll
  for (int i = 0; i < Part::warp_row_blocks; ++i) {
    constexpr int deep = Part::splits_m ? 1 : Part::warps_k;
    constexpr bool forward = direction == tile::Direction::forward;
    const int top = 16 * Part::row_block(i, depth);
    // The blocks of terms that rows see: forward the first ones, in reverse the last ones. With rows apart,
    // each warp's own.
    const int before = forward ? (top + 16) / mma_k<T> : top / mma_k<T>;
    const int begin = forward || Part::splits_m ? 0 : before;
    const int end = forward && !Part::splits_m && before < Part::term_blocks ? before : Part::term_blocks;
    int edge = 0;  // of the terms that the tensor cores sum
    if constexpr (Part::splits_m)
      edge = device::opaque(finite ? before : forward ? top / mma_k<T> : (top + 16) / mma_k<T>);
    Pending<T> pending[Part::warp_column_blocks];
#pragma unroll
    for (int m = 0; m < Part::warp_column_blocks; ++m) set_to_zero(pending[m]);
#pragma unroll
    for (int first = begin; first < end; first += deep) {
      if (first > begin && (first - begin) / deep % chain_blocks == 0)
#pragma unroll
        for (int m = 0; m < Part::warp_column_blocks; ++m)
          fold<T>(out.sums[i][m], pending[m], Chain::further);
      const int j = first + (deep > 1 ? depth : 0);
      if (deep > 1 && j >= end) continue;
      // The diagonal has terms that some rows do not see.
      if constexpr (Part::splits_m) {
        if (forward ? j >= edge : j < edge) continue;
      } else if (!finite && j * mma_k<T> >= top && j * mma_k<T> < top + 16) {
        continue;
      }
      const auto left = to_operand(load_rows<Operand::a>(scores.below(top), 0, j * mma_k<T>, lane));
#pragma unroll
      for (int m = 0; m < Part::warp_column_blocks; ++m)
        multiply<T>(out.sums[i][m], pending[m], left,
                    to_operand(detail::of_this_depth<deep>(&values.blocks[m][first], end - first, depth)));
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

/// out += rest of the scores v, with what score() and attend() had, once they are done. By the whole block;
/// 16-bit elements.
template <AnyProblem P, Tiling tiling, tile::Direction direction, ScoreRows score_rows,
          class Part = Partition<P, tiling>>
__device__ __forceinline__ void attend_rest(const typename Part::TileAB& a, const typename Part::TileAB& b,
                                            const typename Part::A* row_factor_shared,
                                            const TermFactors<typename Part::T, Part::chunk>& term_factors,
                                            typename Part::ScoreTile& scores,
                                            const typename Part::TileC& tile,
                                            const typename Part::Values& values, bool finite, bool exactly,
                                            typename Part::Output& out) {
  constexpr auto scale = rest_scale<typename Part::T>;
  device::sync_block();  // scores are read
  score<P, tiling, direction, score_rows, ScorePart::rest>(a, b, row_factor_shared, term_factors, scores, 0,
                                                           exactly);
  device::sync_block();  // their rest is written
  if constexpr (scale != 1) scale_all<Part>(out, scale);
  attend<P, tiling, direction>(scores, tile, values, finite, out);
  if constexpr (scale != 1) scale_all<Part>(out, 1 / scale);
}

}  // namespace cottention::sm80
