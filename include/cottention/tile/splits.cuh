// How a sequence is split into pieces that are computed apart.
#pragma once

#include <cuda_runtime.h>

#include <cottention/tile/sequence.cuh>

namespace cottention::tile {

/// Into how many pieces a sequence is cut.
struct SplitRule {
  int wanted = 1;      // pieces
  int min_rows = 0;    // rows of a piece, at least
  int max_rows = 0;    // at most, as far as `most` allows; 0: any number
  int max_pieces = 1;  // pieces that the launch has room for
};

/// A sequence in pieces of `rows` that are summed apart: as many as are wanted and no piece is too long for,
/// or as many as have room at `shortest` rows each. The whole batch's length limits the launch, but never to
/// less than a sequence of it has room for; so the rest of a batch has no say in a sequence's bits.
struct Pieces {
  int rows = 0;
  int count = 1;  // at least 1: an empty sequence has one empty piece

  __device__ __forceinline__ Pieces(int length, const SplitRule& split_rule, int chunk) {
    if (length == 0) return;
    int wanted = split_rule.wanted;
    if (split_rule.max_rows > 0 && (length - 1) / split_rule.max_rows >= wanted)
      wanted = (length - 1) / split_rule.max_rows + 1;
    if (wanted > split_rule.max_pieces) wanted = split_rule.max_pieces;
    if (wanted > 1 && length / split_rule.min_rows < wanted)
      wanted = length < split_rule.min_rows ? 1 : length / split_rule.min_rows;
    rows = ((length - 1) / wanted / chunk + 1) * chunk;
    count = (length - 1) / rows + 1;
  }
  __device__ __forceinline__ int first(int piece) const { return piece * rows; }
  __device__ __forceinline__ int last(int piece, int length) const {
    return piece == count - 1 ? length : (piece + 1) * rows;
  }
};

/// Positions that a recurrence goes through. Without query heads one side has none, but a causal walk still
/// meets the other.
template <Mask mask>
__device__ __forceinline__ int walk_length(const Side& rows, const Side& terms) {
  return mask == Mask::causal && terms.length == 0 ? rows.length : terms.length;
}

}  // namespace cottention::tile
