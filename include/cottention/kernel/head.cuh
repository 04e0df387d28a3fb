// Which rows a block works on.
#pragma once

#include <cottention/kernel/params.cuh>
#include <cottention/kernel/roles.cuh>
#include <cottention/tiling.hpp>

namespace cottention::kernel {

/// The number of V tiles: blocks that divide the columns of c and of the output.
template <AnyRoles R, Tiling tiling>
inline constexpr int v_tiles = (R::dims.v + tiling.columns - 1) / tiling.columns;

/// What a block computes of one key/value head of one sequence. `group_head` is one of the query heads that
/// share the key/value head. `keeps_addresses`: lanes have registers for addresses that follow from the
/// head's index; otherwise each use computes them.
template <AnyRoles R, Tiling tiling, bool keeps_addresses>
struct Head {
  using T = typename R::element;
  using A = Accumulate<T>;

  const RecurrenceParams<T>& params;
  std::int64_t batch;
  int kv_head, group, column;  // column: the first of the block's columns of c and the output
  tile::SequenceSide rows, terms;
  tile::Pieces pieces;  // of the sequence of terms
  int order;            // of this block's piece, in the order of the walk
  int first, last;      // positions of the piece

  /// index: of the block among those of heads.
  explicit __device__ __forceinline__ Head(const RecurrenceParams<T>& p, int index = device::block_x())
      : params(p),
        batch(index / p.heads_kv),
        kv_head(index % p.heads_kv),
        group(R::rows_are_queries ? p.row_group : p.term_group),
        column(device::block_z() * tiling.columns),
        rows(p.row_offsets, p.row_mask, batch, p.seq_rows),
        terms(p.term_offsets, p.term_mask, batch, p.seq_terms),
        pieces(walked(), p.split_rule, tiling.chunk),
        order(device::block_y()),
        first(pieces.first(piece())),
        last(pieces.last(piece(), walked())) {}

  /// The head's first element in an array of states, (batch, heads_kv, dims.qk, dims.v). Opaque: each use
  /// computes it.
  __device__ __forceinline__ std::int64_t state_offset() const {
    return std::int64_t{device::opaque(device::block_x())} * R::dims.qk * R::dims.v;
  }

  /// Whether the block's piece is the last one in the order of the walk.
  __device__ __forceinline__ bool is_last() const {
    return device::opaque(device::block_y()) == pieces.count - 1;
  }

  /// The index of the block's piece in the sequence.
  __device__ __forceinline__ int piece() const {
    return R::direction == recurrence::Direction::forward ? order : pieces.count - 1 - order;
  }

  // The rows of a tensor, (seq, dim).
  __device__ __forceinline__ tile::RowView<const T> a(int group_head) const {
    return on_rows(params.a, group_head);
  }
  __device__ __forceinline__ tile::RowView<const T> norm_input(int group_head) const {
    return on_rows(params.norm_input, group_head);
  }
  __device__ __forceinline__ tile::RowView<T> out(int group_head) const {
    return on_rows(params.out, group_head);
  }
  __device__ __forceinline__ tile::RowView<A> grad_normalized(int group_head) const {
    return on_rows(params.grad_normalized, group_head);
  }
  __device__ __forceinline__ tile::RowView<const T> b(int group_head) const {
    return on_terms(params.b, group_head);
  }
  __device__ __forceinline__ tile::RowView<const T> c(int group_head) const {
    return on_terms(params.c, group_head);
  }

  /// The keys of the sequence, from which counts and weights follow.
  __device__ __forceinline__ const tile::SequenceSide& keys() const {
    return R::rows_are_queries ? terms : rows;
  }

  /// The partial state of the piece that is `of_order` in the walk, of the block's columns.
  __device__ __forceinline__ A* partial_state(int of_order) const {
    return partial_state_of(params, device::block_z(), of_order);
  }

 private:
  static __device__ __forceinline__ int opaque(int of_head) {
    return keeps_addresses ? of_head : device::opaque(of_head);
  }
  __device__ __forceinline__ int walked() const { return tile::walk_length<R::mask>(rows, terms); }
  template <class E>
  __device__ __forceinline__ tile::RowView<E> on_rows(const tile::View<E>& view, int group_head) const {
    return rows.rows(view, batch, opaque(R::rows_are_queries ? kv_head * group + group_head : kv_head));
  }
  template <class E>
  __device__ __forceinline__ tile::RowView<E> on_terms(const tile::View<E>& view, int group_head) const {
    return terms.rows(view, batch, opaque(R::rows_are_queries ? kv_head : kv_head * group + group_head));
  }
};

}  // namespace cottention::kernel
