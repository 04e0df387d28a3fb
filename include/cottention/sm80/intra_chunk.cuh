// The intra-chunk part of one output by role: the operands of score(), attend() and attend_rest().
#pragma once

#include <cottention/sm80/chunk.cuh>
#include <cottention/sm80/tiles.cuh>

namespace cottention::sm80 {

/// A role's operands in shared memory. scales_rows: whether the rows of a have factors, as those of dq and dk
/// have in half; in the fused backward those of dv have them there too.
template <kernel::AnyRoles R, Tiling tiling, bool scales_rows = R::normalizes_all_operands>
struct IntraChunk {
  using Recurrence = typename R::Recurrence;
  using Part = PartOf<R, tiling>;
  using T = typename Part::T;
  static constexpr auto score_rows = scales_rows ? ScoreRows::scaled : ScoreRows::unscaled;

  const typename Part::TileAB &a, &b;                     // (chunk, dims.qk)
  const typename Part::TileC& c;                          // (chunk, columns)
  const typename Part::A* row_factors;                    // (chunk)
  const tile::TermFactors<T, Part::chunk>& term_factors;  // (chunk)
  typename Part::ScoreTile& scores;                       // (chunk, chunk)

  /// Writes the scores, blocks of which go round the warps beginning with warp `from`. Scope: block; no
  /// barrier inside.
  __device__ __forceinline__ void score(int from = 0) const {
    sm80::score<Recurrence, tiling, R::direction, score_rows>(a, b, row_factors, term_factors, scores, from);
  }
  /// out (chunk, columns) += scores c. `values`: c as registers hold it; `finite`: whether it is. leading():
  /// the LeadingChunks, in which 16-bit scores are corrected for their rounding. Scope: block, after a
  /// barrier that follows score(); barriers inside: 2 in a leading chunk.
  template <class Leading>
  __device__ __forceinline__ void attend(const typename Part::Values& values, bool finite, int row,
                                         Leading leading, typename Part::Output& out) const {
    sm80::attend<Recurrence, tiling, R::direction>(scores, c, values, finite, out);
    if constexpr (sizeof(T) == 2) {
      const tile::LeadingChunks<Part::chunk, R::direction> chunks = leading();
      if (chunks.contain(row))
        sm80::attend_rest<Recurrence, tiling, R::direction, score_rows>(
            a, b, row_factors, term_factors, scores, c, values, finite, chunks.are_all(), out);
    }
  }
};

}  // namespace cottention::sm80
