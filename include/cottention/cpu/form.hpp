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
  bool two_outputs = false;             // dk and dv in one walk
  bool initial = false, final = false;  // whether the walk has these states

  /// How often a row of a is multiplied by the initial state; a row of b and c enters the final one once.
  constexpr std::int64_t outputs() const { return two_outputs ? 2 : 1; }
  constexpr std::int64_t initial_saved() const { return initial ? 0 : outputs(); }
  constexpr std::int64_t final_saved() const { return final ? 0 : 1; }
};

/// The rows of the longest sequence that may be one chunk. With both states, one chunk saves nothing.
constexpr std::int64_t max_single_chunk(const WalkExtents& x) {
  const std::int64_t saved = x.initial_saved() + x.final_saved();
  return 2 * saved * x.dim_a * x.dim_c / (x.outputs() * (x.dim_a + x.dim_c));
}

/// Whether a sequence is one chunk. The scores of each output then cost L (dim_a + dim_c) / 2 multiply-adds a
/// row (without a mask L (dim_a + dim_c)), and each product with an absent state saves dim_a dim_c.
constexpr bool is_single_chunk(const WalkExtents& x) {
  if (x.a_rows == 0 || x.bc_rows == 0) return false;
  const std::int64_t longest = max_single_chunk(x);
  if (x.causal) return x.bc_rows <= longest;
  if ((std::max)(x.a_rows, x.bc_rows) > longest) return false;
  const std::int64_t saved = x.initial_saved() * x.a_rows + x.final_saved() * x.bc_rows;
  return x.outputs() * x.a_rows * x.bc_rows * (x.dim_a + x.dim_c) <= saved * x.dim_a * x.dim_c;
}

/// Rows of b and c whose products are summed from zero before they are added to an output or a state, a
/// multiple of `block`.
constexpr std::int64_t key_group(std::int64_t block) {
  return block * (std::max)(std::int64_t{1}, 128 / block);
}

/// Whether a matrix unit serves walks of these dimensions with operands in so many bfloat16 parts. In three
/// parts a product takes six. Sums over more dimensions than 4,096 would not be as accurate as vectors'.
constexpr bool tiles_serve(int tile_parts, std::int64_t dim_a, std::int64_t dim_c) {
  if (tile_parts <= 1) return tile_parts == 1;
  return dim_a * dim_c >= 128 * 128 && (std::max)(dim_a, dim_c) <= 4096;
}

/// The rows of a chunk where a sequence has several, in blocks of `block` rows. Every chunk reads its state
/// twice and writes it once, so where that is far larger than the second-level cache, a chunk is as long as a
/// group: at 1,024 dimensions that was 1.2 times as fast, at 512 it was not. So it is on a matrix unit
/// (`tiles`), where passes over the state take longer than products.
constexpr std::int64_t chunk_rows(std::int64_t dim_a, std::int64_t dim_c, std::int64_t block, bool tiles) {
  return tiles || dim_a * dim_c >= 1024 * 1024 ? key_group(block) : block;
}

}  // namespace cottention::cpu
