// The scratch memory of one chunk's operands.
#pragma once

#include <algorithm>
#include <cstdint>

#include <cottention/cpu/form.hpp>
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
  std::int64_t a_pitch = 0, c_pitch = 0;  // row_pitch of dim_a and dim_c
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
