// Which rows a block works on.
#pragma once

#include <cottention/kernel/roles.cuh>
#include <cottention/kernel/sequence.cuh>
#include <cottention/tile/pipeline.cuh>
#include <cottention/tile/state.cuh>

namespace cottention::kernel {

template <AnyRoles R, Tiling tiling>
using PartOf = tile::Partition<typename R::Recurrence, tiling>;
template <AnyRoles R, Tiling tiling>
using StateOf = tile::State<typename R::Recurrence, tiling>;

/// Blocks that share the columns of c and the output.
template <AnyRoles R, Tiling tiling>
inline constexpr int column_blocks = (R::dims.v + tiling.columns - 1) / tiling.columns;

/// The block's part of one key/value head of one sequence. Members are the query heads of the head's group.
template <AnyRoles R, Tiling tiling>
struct Head {
  using T = typename R::element;
  using A = Accumulate<T>;

  const RecurrenceParams<T>& params;
  std::int64_t batch;
  int kv_head, group, column;
  Side rows, terms;
  Pieces pieces;    // of the sequence of terms
  int order;        // of this block's piece, in the order of the walk
  int first, last;  // positions of the piece

  explicit __device__ __forceinline__ Head(const RecurrenceParams<T>& p)
      : params(p),
        batch(device::block_x() / p.heads_kv),
        kv_head(device::block_x() % p.heads_kv),
        group(R::rows_are_queries ? p.row_group : p.term_group),
        column(device::block_z() * tiling.columns),
        rows(p.row_offsets, p.row_mask, batch, p.seq_rows),
        terms(p.term_offsets, p.term_mask, batch, p.seq_terms),
        pieces(walked(), p.split_rule, tiling.chunk),
        order(device::block_y()),
        first(pieces.first(piece())),
        last(pieces.last(piece(), walked())) {}

  /// Of the head among states; found anew at either end of its way, so that lanes need not keep it.
  __device__ __forceinline__ std::int64_t state_offset() const {
    return std::int64_t{device::opaque(device::block_x())} * R::dims.qk * R::dims.v;
  }

  /// Whether it is the last piece, in the order of the walk.
  __device__ __forceinline__ bool is_last() const {
    return device::opaque(device::block_y()) == pieces.count - 1;
  }

  /// By its place in the sequence.
  __device__ __forceinline__ int piece() const {
    return R::direction == tile::Direction::forward ? order : pieces.count - 1 - order;
  }

  __device__ __forceinline__ tile::Rows<const T> a(int group_head) const {
    return on_rows(params.a, group_head);
  }
  __device__ __forceinline__ tile::Rows<const T> norm_input(int group_head) const {
    return on_rows(params.norm_input, group_head);
  }
  __device__ __forceinline__ tile::Rows<T> out(int group_head) const {
    return on_rows(params.out, group_head);
  }
  __device__ __forceinline__ tile::Rows<A> grad_normalized(int group_head) const {
    return on_rows(params.grad_normalized, group_head);
  }
  __device__ __forceinline__ tile::Rows<const T> b(int group_head) const {
    return on_terms(params.b, group_head);
  }
  __device__ __forceinline__ tile::Rows<const T> c(int group_head) const {
    return on_terms(params.c, group_head);
  }

  /// The side that counts and weights follow from.
  __device__ __forceinline__ const Side& keys() const { return R::rows_are_queries ? terms : rows; }

  /// The state of the piece of this rank in this sequence, of this block's columns.
  __device__ __forceinline__ A* partial_state(int of_order) const {
    return partial_state_of(params, device::block_z(), of_order);
  }

 private:
  /// Where the state takes half of a lane's registers, there are none to keep addresses in.
  static __device__ __forceinline__ int opaque(int of_head) {
    return sizeof(T) != 4 && PartOf<R, tiling>::warp_depth > 64 ? device::opaque(of_head) : of_head;
  }
  __device__ __forceinline__ int walked() const { return walk_length<R::mask>(rows, terms); }
  template <class E>
  __device__ __forceinline__ tile::Rows<E> on_rows(const View<E>& view, int group_head) const {
    return rows.rows(view, batch, opaque(R::rows_are_queries ? kv_head * group + group_head : kv_head));
  }
  template <class E>
  __device__ __forceinline__ tile::Rows<E> on_terms(const View<E>& view, int group_head) const {
    return terms.rows(view, batch, opaque(R::rows_are_queries ? kv_head : kv_head * group + group_head));
  }
};

/// The parts of a bidirectional head's rows that blocks share.
template <AnyRoles R, Tiling tiling>
__device__ __forceinline__ Pieces m_blocks_of(const Head<R, tiling>& head) {
  const int parts = head.params.m_blocks;
  return {head.rows.length, {.wanted = parts, .min_rows = 1, .max_pieces = parts}, tiling.chunk};
}

/// The first in the order of the walk starts from the caller's initial state, the others from zero.
template <AnyRoles R, Tiling tiling>
__device__ __forceinline__ void start_state(const Head<R, tiling>& head, StateOf<R, tiling>& state) {
  if (head.order == 0 && head.params.initial_h != nullptr)
    state.load(head.params.initial_h + head.state_offset(), head.params.layout, head.column);
  else
    state.set_zero();
}
template <AnyRoles R, Tiling tiling>
__device__ __forceinline__ void store_final_state(const Head<R, tiling>& head, StateOf<R, tiling>& state) {
  if (head.params.final_h != nullptr)
    state.store(head.params.final_h + head.state_offset(), head.params.layout, head.column);
}

// ---- tiles of a chunk

/// Whether a block holds the rows whole that it projects. Otherwise Project does that afterwards.
template <AnyRoles R, Tiling tiling>
inline constexpr bool fuses_norm_backward = R::has_norm_backward&& column_blocks<R, tiling> == 1;

/// a, and the rows x whose norm the output goes through.
template <AnyRoles R, Tiling tiling, bool = fuses_norm_backward<R, tiling>>
struct RowTiles {
  typename PartOf<R, tiling>::TileAB a;
};
template <AnyRoles R, Tiling tiling>
struct RowTiles<R, tiling, true> {
  typename PartOf<R, tiling>::TileAB a;
  typename PartOf<R, tiling>::TileC norm_input;
};
/// b and c.
template <AnyRoles R, Tiling tiling>
struct TermTiles {
  typename PartOf<R, tiling>::TileAB b;
  typename PartOf<R, tiling>::TileC c;
};

template <AnyRoles R, Tiling tiling>
__device__ __forceinline__ void copy_rows(const Head<R, tiling>& head, int group_head, int row,
                                          RowTiles<R, tiling>& tiles) {
  if (head.rows.length == 0) return;
  constexpr int threads = PartOf<R, tiling>::threads;
  tile::copy_rows_async<threads>(head.a(group_head), row, 0, R::dims.qk, tiles.a);
  if constexpr (fuses_norm_backward<R, tiling>)
    tile::copy_rows_async<threads>(head.norm_input(group_head), row, 0, R::dims.v, tiles.norm_input);
}
template <AnyRoles R, Tiling tiling>
__device__ __forceinline__ void copy_terms(const Head<R, tiling>& head, int group_head, int row,
                                           TermTiles<R, tiling>& tiles) {
  constexpr int threads = PartOf<R, tiling>::threads;
  tile::copy_rows_async<threads>(head.b(group_head), row, 0, R::dims.qk, tiles.b);
  tile::copy_rows_async<threads>(head.c(group_head), row, head.column, R::dims.v, tiles.c);
}

}  // namespace cottention::kernel
