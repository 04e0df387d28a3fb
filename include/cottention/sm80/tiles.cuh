// The tiles that a block has of a chunk, and the state that its walk starts from.
#pragma once

#include <cottention/kernel/head.cuh>
#include <cottention/sm80/rows.cuh>
#include <cottention/sm80/state.cuh>

namespace cottention::sm80 {

template <kernel::AnyRoles R, Tiling tiling>
using PartOf = Partition<typename R::Recurrence, tiling>;
template <kernel::AnyRoles R, Tiling tiling>
using StateOf = State<typename R::Recurrence, tiling>;

/// Lanes keep addresses in fp32, and where a warp has at most 64 of dim_qk of the state; beyond that
/// registers are short.
template <kernel::AnyRoles R, Tiling tiling>
using Head = kernel::Head<R, tiling, sizeof(typename R::element) == 4 || PartOf<R, tiling>::warp_depth <= 64>;

/// The M blocks of a bidirectional head: the rows that each of its thread blocks takes.
template <kernel::AnyRoles R, Tiling tiling>
__device__ __forceinline__ tile::Pieces m_blocks_of(const Head<R, tiling>& head) {
  const int parts = head.params.m_blocks;
  return {head.rows.length, {.wanted = parts, .min_rows = 1, .max_pieces = parts}, tiling.chunk};
}

/// Sets the state before a piece: the caller's initial state before the first one in the order of the walk,
/// zero before the others. Scope: thread.
template <kernel::AnyRoles R, Tiling tiling>
__device__ __forceinline__ void start_state(const Head<R, tiling>& head, StateOf<R, tiling>& state) {
  if (const auto* h = head.order == 0 ? head.initial_h() : nullptr; h != nullptr)
    state.load(h, head.params.layout, head.column);
  else
    state.set_zero();
}
/// Writes the state (dims.qk, dims.v) where the caller wants it. Scope: thread.
template <kernel::AnyRoles R, Tiling tiling>
__device__ __forceinline__ void store_final_state(const Head<R, tiling>& head, StateOf<R, tiling>& state) {
  if (auto* h = head.final_h(); h != nullptr) state.store(h, head.params.layout, head.column);
}

// ---- tiles of a chunk

/// Whether a block has all columns of the rows that go backward through the norm. Otherwise Project does that
/// afterwards.
template <kernel::AnyRoles R, Tiling tiling>
inline constexpr bool fuses_norm_backward = R::has_norm_backward&& kernel::v_tiles<R, tiling> == 1;

/// The tiles of rows i: a, and x, whose norm the output goes through.
template <kernel::AnyRoles R, Tiling tiling, bool = fuses_norm_backward<R, tiling>>
struct RowTiles {
  typename PartOf<R, tiling>::TileAB a;  // (chunk, dims.qk)
};
template <kernel::AnyRoles R, Tiling tiling>
struct RowTiles<R, tiling, true> : RowTiles<R, tiling, false> {
  typename PartOf<R, tiling>::TileC norm_input;  // (chunk, columns)
};
/// The tiles of terms j.
template <kernel::AnyRoles R, Tiling tiling>
struct TermTiles {
  typename PartOf<R, tiling>::TileAB b;  // (chunk, dims.qk)
  typename PartOf<R, tiling>::TileC c;   // (chunk, columns)
};

/// Start the copies of rows row, ... Scope: block; no barrier inside.
template <kernel::AnyRoles R, Tiling tiling>
__device__ __forceinline__ void copy_rows(const Head<R, tiling>& head, int group_head, int row,
                                          RowTiles<R, tiling>& tiles) {
  if (head.rows.length == 0) return;
  constexpr int threads = PartOf<R, tiling>::threads;
  sm80::copy_rows_async<threads>(head.a(group_head), row, 0, R::dims.qk, tiles.a);
  if constexpr (fuses_norm_backward<R, tiling>)
    sm80::copy_rows_async<threads>(head.norm_input(group_head), row, 0, R::dims.v, tiles.norm_input);
}
template <kernel::AnyRoles R, Tiling tiling>
__device__ __forceinline__ void copy_terms(const Head<R, tiling>& head, int group_head, int row,
                                           TermTiles<R, tiling>& tiles) {
  constexpr int threads = PartOf<R, tiling>::threads;
  sm80::copy_rows_async<threads>(head.b(group_head), row, 0, R::dims.qk, tiles.b);
  sm80::copy_rows_async<threads>(head.c(group_head), row, head.column, R::dims.v, tiles.c);
}

}  // namespace cottention::sm80
