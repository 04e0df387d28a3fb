// How a sequence is split into pieces that different blocks compute: split-K over the terms of a walk.
#pragma once

#include <cuda_runtime.h>

#include <cottention/recurrence.hpp>
#include <cottention/tile/sequence.cuh>

namespace cottention::tile {

/// The pieces of one sequence, `rows` rows each but for the last: as many as are wanted, more where they
/// would be longer than max_rows, fewer where they would be shorter than min_rows. max_pieces follows from
/// the length of the whole batch. Under Plan::batch_invariant it is never less than a sequence of that batch
/// has room for, so that the bits of a sequence's results do not depend on the other sequences.
struct Pieces {
  int rows = 0;
  int count = 1;  // at least 1: an empty sequence has one empty piece

  __device__ __forceinline__ Pieces(int length, const recurrence::SplitRule& split_rule, int chunk) {
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

/// The number of positions that a walk goes through: that of the terms. Without query heads, the queries of a
/// call have length 0; where they are the terms of a causal walk, it goes through the rows.
template <Mask mask>
__device__ __forceinline__ int walk_length(const SequenceSide& rows, const SequenceSide& terms) {
  return mask == Mask::causal && terms.length == 0 ? rows.length : terms.length;
}

}  // namespace cottention::tile
