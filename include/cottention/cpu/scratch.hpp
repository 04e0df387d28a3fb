// The scratch memory of one chunk's operands.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>

#include <cottention/cpu/form.hpp>
#include <cottention/element.hpp>
#include <cottention/workspace_layout.hpp>

namespace cottention::cpu {

using cottention::detail::Carver, cottention::detail::round_up;

/// The pitch, in elements, of scratch rows of `dim` elements: whole vectors and register tiles of every
/// target. A product reads a few columns of many rows, and rows of wide heads whose pitch is a multiple of
/// 256 bytes would compete for the same few sets of a cache: at 512 and 1,024 dimensions 16 more columns made
/// calls 1.03 to 1.2 times as fast.
constexpr std::int64_t row_pitch(std::int64_t dim) {
  const std::int64_t pitch = round_up(dim, 16);
  return pitch >= 512 && pitch % 64 == 0 ? pitch + 16 : pitch;
}

/// What the size of a chunk's scratch follows from.
struct ScratchExtents {
  std::int64_t block = 0;    // rows of a and of the output that are computed together
  std::int64_t rows = 0;     // of a chunk, a multiple of `block`
  bool sums_heads = false;   // the output sums over several heads of b and c, so it is kept for all rows
  bool two_outputs = false;  // the walk has two outputs
  int tile_parts = 0;        // tile_parts_of the elements
  std::int64_t a_pitch = 0, c_pitch = 0;  // row_pitch of dim_a and dim_c
};

/// In how many bfloat16 parts these elements are operands of a matrix unit, for which a workspace has room
/// then; 0: none serves their walks. Rows of bfloat16 are operands as they are, with factors apart; of
/// others, what the vectors' products read is split.
template <Element T>
inline constexpr int tile_parts_of = std::is_same_v<T, bfloat16> ? 1
                                     : std::is_same_v<T, float>  ? 3
                                                                 : 0;
/// In how many parts scores and states are.
constexpr int value_parts_of(int tile_parts) { return (std::max)(2, tile_parts); }

/// The pitch of rows that are packed for a matrix unit, and the depth of its products of them.
constexpr std::int64_t tile_pitch(std::int64_t dim) { return round_up(row_pitch(dim), 32); }
constexpr std::int64_t tile_depth_of(std::int64_t dim) { return round_up(dim, 32); }

/// The operands of one output on a matrix unit (tile_rows.hpp and tile_parts.hpp have their layouts). Each is
/// there once for each of its parts.
struct TileScratch {
  std::uint16_t* rows;     // (block, the larger tile_pitch): rows of b or c before they are arranged; 1 part
  std::uint32_t* a;        // (block, depth / 2)
  std::uint32_t* b_pairs;  // (rows / 16, depth / 2, 16)
  std::uint32_t* c_pairs;  // (rows / 32, c_pitch / 16, 16, 16)
  std::uint32_t* parts;    // (3, key_group / 32, 32, 16): a panel's scores, or a panel of b^T, in parts
  std::uint32_t* h_parts;  // (parts, depth / 32, c_pitch / 16, 16, 16)
  float* factor;           // (rows), of b and c
  float* a_factor;         // (block)
  float* product;          // (32, 32)

  static TileScratch take(Carver& carver, const ScratchExtents& x) {
    const std::int64_t rows = round_up(x.rows, 32), block = round_up(x.block, 32);
    TileScratch s{};
    if (x.tile_parts == 1)
      s.rows = carver.take<std::uint16_t>(block, round_up((std::max)(x.a_pitch, x.c_pitch), 32));
    s.parts = carver.take<std::uint32_t>(3, round_up(key_group(x.block), 32), 16);
    s.factor = carver.take<float>(rows);
    s.a_factor = carver.take<float>(block);
    s.product = carver.take<float>(32, 32);
    return take_operands(carver, s, x);
  }
  /// That of the second output of a walk, beside `first`: what is not an operand is shared.
  static TileScratch take_second(Carver& carver, ScratchExtents x, const TileScratch& first) {
    std::swap(x.a_pitch, x.c_pitch);
    return take_operands(carver, first, x);
  }

 private:
  static TileScratch take_operands(Carver& carver, TileScratch s, const ScratchExtents& x) {
    const std::int64_t rows = round_up(x.rows, 32), block = round_up(x.block, 32);
    const std::int64_t depth = round_up(x.a_pitch, 32);
    s.a = carver.take<std::uint32_t>(x.tile_parts, block, depth / 2);
    s.b_pairs = carver.take<std::uint32_t>(x.tile_parts, rows, depth / 2);
    s.c_pairs = carver.take<std::uint32_t>(x.tile_parts, rows / 2, x.c_pitch);
    s.h_parts = carver.take<std::uint32_t>(value_parts_of(x.tile_parts), depth / 2, x.c_pitch);
    return s;
  }
};

/// A thread's scratch for one chunk of b and c, and one block of a.
template <class A>
struct ChunkScratch {
  std::int64_t a_pitch, c_pitch, score_pitch;
  A* a;           // (block, a_pitch)
  A* b_t;         // (rows / block, a_pitch, block)
  A* c;           // (rows, c_pitch)
  A* scores;      // (block, score_pitch)
  A* o;           // (block, c_pitch), or with sums_heads (rows, c_pitch)
  A* normalized;  // (block, c_pitch)
  double* n;      // (rows)
  A* weight;      // (rows)
  bool* finite;   // (rows / block), whether all of c is
  TileScratch tiles;

  static ChunkScratch take(Carver& carver, const ScratchExtents& x) {
    ChunkScratch s{};
    s.a_pitch = x.a_pitch;
    s.c_pitch = x.c_pitch;
    s.score_pitch = (std::min)(x.rows, key_group(x.block));
    s.a = carver.take<A>(x.block, x.a_pitch);
    s.b_t = carver.take<A>(x.rows, x.a_pitch);
    s.c = carver.take<A>(x.rows, x.c_pitch);
    s.o = carver.take<A>(x.sums_heads ? x.rows : x.block, x.c_pitch);
    s.normalized = carver.take<A>(x.block, x.c_pitch);
    s.scores = carver.take<A>(x.block, s.score_pitch);
    s.n = carver.take<double>(x.rows);
    s.weight = carver.take<A>(x.rows);
    s.finite = carver.take<bool>(x.rows / x.block);
    if (x.tile_parts > 0) s.tiles = TileScratch::take(carver, x);
    return s;
  }
  /// That of the second output of a walk, beside `first`: counts, weights and scores are shared.
  static ChunkScratch take_second(Carver& carver, const ScratchExtents& x, const ChunkScratch& first) {
    ChunkScratch s = first;
    s.a_pitch = x.c_pitch;
    s.c_pitch = x.a_pitch;
    s.a = carver.take<A>(x.block, s.a_pitch);
    s.b_t = carver.take<A>(x.rows, s.a_pitch);
    s.c = carver.take<A>(x.rows, s.c_pitch);
    s.o = carver.take<A>(x.sums_heads ? x.rows : x.block, s.c_pitch);
    s.normalized = nullptr;  // a of the first output
    s.finite = carver.take<bool>(x.rows / x.block);
    if (x.tile_parts > 0) s.tiles = TileScratch::take_second(carver, x, first.tiles);
    return s;
  }
};

/// The scratch of each output of a walk.
template <class A>
struct WalkScratch {
  ChunkScratch<A> outputs[2];

  static WalkScratch take(Carver& carver, const ScratchExtents& x) {
    const auto first = ChunkScratch<A>::take(carver, x);
    return {first, x.two_outputs ? ChunkScratch<A>::take_second(carver, x, first) : ChunkScratch<A>{}};
  }
};

/// A state of a walk. States are (a_pitch, c_pitch), zero outside (dim_a, dim_c); a null one is zero.
template <class A>
struct RunningState {
  A* data = nullptr;  // null: not kept
  bool zero = true;   // nothing has been added, and the memory holds anything

  const A* read() const { return zero ? nullptr : data; }
};

/// The state before a piece: the initial one and those of the pieces before, added up by prefix_sum.hpp.
template <class A>
struct PrefixSum {
  static constexpr std::int64_t states = 2;  // in memory

  A* value = nullptr;
  A* compensation = nullptr;  // what rounding added to value
  bool zero = true;           // nothing has been added, and the memory holds anything

  const A* read() const { return zero ? nullptr : value; }
};

/// Where a walk adds b^T c of a chunk: to = from + b^T c, and h = base + to where there is a base.
template <class A>
struct StateUpdate {
  A* to = nullptr;          // null: nothing is added
  const A* from = nullptr;  // null: zero; may be `to`
  A* h = nullptr;
  const A* base = nullptr;  // null: there is none, and h is not written
};

}  // namespace cottention::cpu
