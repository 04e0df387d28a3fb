// In which form a walk is computed, and in chunks of how many rows: whichever takes the fewest operations.
//
// Within a chunk every pair of rows costs dim_a + dim_c multiply-adds, and between chunks a row costs dim_a
// dim_c for a H and as many for H += b^T c. A sequence that is one chunk has neither, but for the states that
// the call gives or wants. So short sequences of wide heads are one chunk, which is attention in its
// quadratic form, and all others have short chunks.
//
// The rule follows from lengths, head dimensions and the states of a call alone, so that the bits of a result
// depend neither on threads nor on the rest of the batch.
#pragma once

#include <algorithm>
#include <cstdint>

namespace cottention::cpu {

/// What the form of a walk follows from.
struct WalkExtents {
  std::int64_t a_rows = 0, bc_rows = 0;
  std::int64_t dim_a = 0, dim_c = 0;
  bool causal = true;
  bool initial = false, final = false;  // whether the walk has these states
};

/// The rows of the longest sequence that may be one chunk, where `states` of its initial and its final state
/// are given or wanted. With both, one chunk saves nothing.
constexpr std::int64_t max_single_chunk(std::int64_t dim_a, std::int64_t dim_c, int states) {
  return (2 - states) * 2 * dim_a * dim_c / (dim_a + dim_c);
}

/// Whether a sequence is one chunk. Its scores then cost L (dim_a + dim_c) / 2 multiply-adds a row (without a
/// mask L (dim_a + dim_c)), and each absent state saves dim_a dim_c.
constexpr bool is_single_chunk(const WalkExtents& x) {
  if (x.a_rows == 0 || x.bc_rows == 0) return false;
  const int states = (x.initial ? 1 : 0) + (x.final ? 1 : 0);
  const std::int64_t longest = max_single_chunk(x.dim_a, x.dim_c, states);
  if (x.causal) return x.bc_rows <= longest;
  if ((std::max)(x.a_rows, x.bc_rows) > longest) return false;
  const std::int64_t saved = (x.initial ? 0 : x.a_rows) + (x.final ? 0 : x.bc_rows);
  return x.a_rows * x.bc_rows * (x.dim_a + x.dim_c) <= saved * x.dim_a * x.dim_c;
}

/// Rows of b and c whose products are summed from zero before they are added to an output or a state, a
/// multiple of `block`.
constexpr std::int64_t key_group(std::int64_t block) {
  return block * (std::max)(std::int64_t{1}, 128 / block);
}

/// The rows of a chunk where a sequence has several, in blocks of `block` rows. Every chunk reads its state
/// twice and writes it once, so where that is far larger than the second-level cache, a chunk is as long as a
/// group: at 1,024 dimensions that was 1.2 times as fast, at 512 it was not.
constexpr std::int64_t chunk_rows(std::int64_t dim_a, std::int64_t dim_c, std::int64_t block) {
  return dim_a * dim_c >= 1024 * 1024 ? key_group(block) : block;
}

}  // namespace cottention::cpu
