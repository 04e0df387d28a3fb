// How a recurrence over whole sequences is cut up for the device, and what memory that takes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <cottention/arguments.hpp>

namespace cottention {

/// Pieces that a sequence is cut into where heads are few. 0: the library's choice; 1: none; up to 64
/// otherwise. Never more than one for each 256 tokens; in fp32 at least so many that none has over 512
/// chunks, as far as 64 suffice (docs/tuning.md, "Long sequences").
struct Split {
  int pieces = 0;
};

namespace host {

inline constexpr int most_pieces = 64;
/// Shortest piece: walking it costs as much as moving three states of dimension 128 to memory and back.
inline constexpr int shortest_piece = 256;

/// Blocks and pieces of one recurrence.
struct RecurrencePlan {
  std::int64_t units = 0;  // batch * heads_kv
  int column_blocks = 1;
  int chunk = 0;
  std::int64_t image_elements = 0;  // of a block's state
  int pieces = 1;                   // most that a sequence has; 1: no images
  int wanted = 1;                   // of a sequence, unless they would be too short or too long
  int shortest = 0, longest = 0;    // rows of a piece; longest 0: any number
  int row_parts = 1;                // of a bidirectional head
  std::size_t image_bytes = 0;      // of all pieces
};

/// What the plan has to know of the call.
struct RecurrenceExtent {
  std::int64_t units = 0, rows = 0, terms = 0;
};

/// And of the kernels.
struct BlockSize {
  int column_blocks = 1;
  int chunk = 0;
  std::int64_t image_elements = 0;  // of a block's state
  int element_bytes = 0;            // of the state
  int longest_piece = 0;            // terms that may be summed one chunk after the other; 0: any number
};

/// `multiprocessors` counts only under Plan::automatic.
inline RecurrencePlan plan_recurrence(const RecurrenceExtent& extent, Plan plan, Split split,
                                      const BlockSize& block, int multiprocessors) {
  RecurrencePlan p;
  p.units = extent.units;
  p.column_blocks = block.column_blocks;
  p.chunk = block.chunk;
  p.image_elements = block.image_elements;
  const std::int64_t blocks = p.units * p.column_blocks;
  const std::int64_t room = std::max<std::int64_t>(1, extent.terms / shortest_piece);
  std::int64_t asked = 1;
  if (split.pieces > 0)
    asked = split.pieces;
  else if (plan == Plan::batch_invariant)
    asked = most_pieces;  // as many as its length allows each sequence
  else if (blocks > 0 && 10 * blocks < 9 * static_cast<std::int64_t>(multiprocessors))
    asked = 2 * static_cast<std::int64_t>(multiprocessors) / blocks;  // more would wait for a second round
  // The terms of a packed batch may all be of one sequence.
  std::int64_t wanted = asked;
  if (block.longest_piece > 0)
    wanted = (std::max)(wanted, (extent.terms + block.longest_piece - 1) / block.longest_piece);
  p.pieces = static_cast<int>((std::min)({wanted, room, std::int64_t{most_pieces}}));
  if (p.pieces > 1) {
    p.wanted = static_cast<int>((std::min)(asked, std::int64_t{most_pieces}));
    p.shortest = shortest_piece;
    p.longest = block.longest_piece;
    p.image_bytes = static_cast<std::size_t>(block.image_elements * block.element_bytes * blocks * p.pieces);
    const std::int64_t rows = std::max<std::int64_t>(1, extent.rows / shortest_piece);
    p.row_parts = static_cast<int>((std::min)({wanted, rows, std::int64_t{most_pieces}}));
  }
  return p;
}

}  // namespace host
}  // namespace cottention
