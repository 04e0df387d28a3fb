// How a recurrence over whole sequences is cut up for the device, and what memory that takes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <cottention/arguments.hpp>

namespace cottention::host {

inline constexpr int max_pieces = 64;
/// Shortest piece: walking it costs as much as moving three states of dimension 128 to memory and back.
inline constexpr int min_piece_rows = 256;

/// Blocks and pieces of one recurrence.
struct SplitPlan {
  std::int64_t batch_heads = 0;  // batch * heads_kv
  int v_tiles = 1;
  int chunk = 0;
  std::int64_t partial_elements = 0;  // of a block's state
  int pieces = 1;                     // most that a sequence has; 1: no partial states
  int wanted = 1;                     // of a sequence, unless they would be too short or too long
  int min_rows = 0, max_rows = 0;     // rows of a piece; max_rows 0: any number
  int m_blocks = 1;                   // of a bidirectional head
  std::size_t partial_bytes = 0;      // of all pieces
};

/// What the plan has to know of the call.
struct RecurrenceExtent {
  std::int64_t batch_heads = 0, rows = 0, terms = 0;
};

/// And of the kernels.
struct BlockSize {
  int v_tiles = 1;
  int chunk = 0;
  std::int64_t partial_elements = 0;  // of a block's state
  int element_bytes = 0;              // of the state
  int max_piece_rows = 0;             // terms that may be summed one chunk after the other; 0: any number
};

/// `multiprocessors` counts only under Plan::automatic.
inline SplitPlan plan_splits(const RecurrenceExtent& extent, Plan plan, Split split, const BlockSize& block,
                             int multiprocessors) {
  SplitPlan p;
  p.batch_heads = extent.batch_heads;
  p.v_tiles = block.v_tiles;
  p.chunk = block.chunk;
  p.partial_elements = block.partial_elements;
  const std::int64_t blocks = p.batch_heads * p.v_tiles;
  const std::int64_t room = std::max<std::int64_t>(1, extent.terms / min_piece_rows);
  std::int64_t asked = 1;
  if (split.pieces > 0)
    asked = split.pieces;
  else if (plan == Plan::batch_invariant)
    asked = max_pieces;  // as many as its length allows each sequence
  else if (blocks > 0 && 10 * blocks < 9 * static_cast<std::int64_t>(multiprocessors))
    asked = 2 * static_cast<std::int64_t>(multiprocessors) / blocks;  // more would wait for a second round
  // The terms of a packed batch may all be of one sequence.
  std::int64_t wanted = asked;
  if (block.max_piece_rows > 0)
    wanted = (std::max)(wanted, (extent.terms + block.max_piece_rows - 1) / block.max_piece_rows);
  p.pieces = static_cast<int>((std::min)({wanted, room, std::int64_t{max_pieces}}));
  if (p.pieces > 1) {
    p.wanted = static_cast<int>((std::min)(asked, std::int64_t{max_pieces}));
    p.min_rows = min_piece_rows;
    p.max_rows = block.max_piece_rows;
    p.partial_bytes =
        static_cast<std::size_t>(block.partial_elements * block.element_bytes * blocks * p.pieces);
    const std::int64_t rows = std::max<std::int64_t>(1, extent.rows / min_piece_rows);
    p.m_blocks = static_cast<int>((std::min)({wanted, rows, std::int64_t{max_pieces}}));
  }
  return p;
}

}  // namespace cottention::host
