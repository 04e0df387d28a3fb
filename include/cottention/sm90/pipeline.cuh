// The buffers that TMA fills with the rows and terms of chunks, and who may use them when.
//
// A buffer goes round: one thread loads it once all readers have arrived at its `empty` barrier; the copies
// arrive at its `full` barrier. Each warpgroup counts the rounds itself (RingPlace). Buffers of rows, which
// the loading thread's warpgroup alone reads, go without `empty`: see Loader::next().
#pragma once

#include <cstdint>

#include <cottention/device/mbarrier.cuh>
#include <cottention/device/tma.cuh>
#include <cottention/kernel/head.cuh>
#include <cottention/sm90/state.cuh>
#include <cottention/sm90/tiles.cuh>
#include <cottention/tile/counts.cuh>
#include <cottention/tile/cursor.cuh>

namespace cottention::sm90 {

template <kernel::AnyRoles R, Tiling tiling>
using Head = kernel::Head<R, tiling, true>;

/// Warps of a block: a warpgroup for outputs, and one for each 64 rows of H^T.
template <kernel::AnyRoles R>
inline constexpr int warps_of = 4 * (1 + State<typename R::element, R::dims>::groups);

/// A buffer in a ring of `size`, and the parity of the phase in which it is full.
template <int size>
struct RingPlace {
  int index = 0, parity = 0;
  __device__ __forceinline__ void advance() {
    if constexpr (size == 2) {
      index ^= 1;
      parity ^= index ^ 1;
      return;
    }
    if (++index < size) return;
    index = 0;
    parity ^= 1;
  }
};

template <int size>
struct Ring {
  device::Mbarrier full[size], empty[size];

  /// Scope: thread; fence_mbarrier_init() and sync_block() must follow.
  __device__ __forceinline__ void init(int full_arrivals, int empty_arrivals) {
    for (int i = 0; i < size; ++i) {
      device::mbarrier_init(full + i, full_arrivals);
      device::mbarrier_init(empty + i, empty_arrivals);
    }
  }
  __device__ __forceinline__ void wait_full(RingPlace<size> place) {
    device::mbarrier_wait(full + place.index, place.parity);
  }
  __device__ __forceinline__ void wait_empty(RingPlace<size> place) {
    device::mbarrier_wait(empty + place.index, place.parity ^ 1);
  }
  /// An arrival of the warp. Scope: warp.
  __device__ __forceinline__ void arrive_full(RingPlace<size> place) { arrive(full + place.index); }
  __device__ __forceinline__ void arrive_empty(RingPlace<size> place) { arrive(empty + place.index); }

 private:
  static __device__ __forceinline__ void arrive(device::Mbarrier* barrier) {
    device::sync_warp();
    if (lane_index() == 0) device::mbarrier_arrive(barrier);
  }
};

/// The tiles of rows i: a, and for dq and dk x, whose norm the output goes through. The output leaves through
/// the memory of one of them.
template <kernel::AnyRoles R, bool = R::has_norm_backward>
struct RowBuffer {
  using T = typename R::element;
  using A = Tile<T, R::dims.qk>;
  using Output = Tile<T, R::dims.v>;
  static constexpr int bytes = A::bytes;
  static constexpr int panels = A::panels > Output::panels ? A::panels : Output::panels;
  Panel<T> memory[panels];
  __device__ __forceinline__ A& a() { return reinterpret_cast<A&>(memory); }
  __device__ __forceinline__ Output& output() { return reinterpret_cast<Output&>(memory); }
};
template <kernel::AnyRoles R>
struct RowBuffer<R, true> {
  using T = typename R::element;
  using A = Tile<T, R::dims.qk>;
  using Output = Tile<T, R::dims.v>;
  static constexpr int bytes = A::bytes + Output::bytes;
  A of_a;
  Output norm_input;
  __device__ __forceinline__ A& a() { return of_a; }
  __device__ __forceinline__ Output& output() { return norm_input; }
};
/// The tiles of terms j.
template <kernel::AnyRoles R>
struct TermBuffer {
  using T = typename R::element;
  static constexpr int bytes = Tile<T, R::dims.qk>::bytes + Tile<T, R::dims.v>::bytes;
  Tile<T, R::dims.qk> b;
  Tile<T, R::dims.v> c;
};

/// Where the rows of a head are in the tensors of a call.
struct Coordinates {
  int row, head, batch;
};
template <kernel::AnyRoles R, Tiling tiling>
__device__ __forceinline__ Coordinates coordinates(const Head<R, tiling>& head, bool queries, int group_head,
                                                   int row) {
  const tile::SequenceSide& side = queries == R::rows_are_queries ? head.rows : head.terms;
  return {static_cast<int>(side.start) + row, queries ? head.kv_head * head.group + group_head : head.kv_head,
          side.packed ? 0 : static_cast<int>(head.batch)};
}

/// Starts copies of 64 rows to a tile, which count on `barrier`. Scope: thread.
template <Element T, int columns>
__device__ __forceinline__ void load_panels(Tile<T, columns>& tile, const device::TensorMap& map,
                                            device::Mbarrier* barrier, Coordinates from) {
#pragma unroll
  for (int p = 0; p < Tile<T, columns>::panels; ++p)
    device::tma_load(&tile.panel[p], &map, barrier, panel_columns * p, from.row, from.head, from.batch);
}
/// Starts stores of the tile's rows from `first` on, as many as the map's tiles have, that exist in the
/// tensor. Scope: thread, after fence_proxy_async() by the writers and a barrier.
template <Element T, int columns>
__device__ __forceinline__ void store_panels(Tile<T, columns>& tile, const device::TensorMap& map,
                                             Coordinates to, int first = 0) {
#pragma unroll
  for (int p = 0; p < Tile<T, columns>::panels; ++p)
    device::tma_store(&map, tile.panel[p].at(first, 0), panel_columns * p, to.row, to.head, to.batch);
  device::cp_async_bulk_commit();
}

/// What a kernel over heads loads: a ring of buffers for rows, and one for terms.
template <kernel::AnyRoles R, Tiling tiling>
struct RowRing {
  RowBuffer<R> buffers[tiling.stages];
  Ring<tiling.stages> barriers;
};
template <kernel::AnyRoles R, Tiling tiling>
struct TermRing {
  TermBuffer<R> buffers[tiling.stages];
  Ring<tiling.stages> barriers;
};

/// Starts the loads of a walk in its order, a position at a time: of rows where a position has new ones,
/// likewise of terms. Query heads of a group bring rows or terms of their own; the other side is loaded once
/// for each chunk. in_shared: its position is in shared memory. Scope of all members: one thread, always the
/// same.
template <kernel::AnyRoles R, Tiling tiling, recurrence::Direction direction, bool loads_rows,
          bool loads_terms, bool in_shared = false>
class Loader {
  using Cursor = tile::Cursor<tiling.stages, chunk_rows, direction>;

 public:
  using Params = RecurrenceParams<typename R::element>;
  using Place = RingPlace<tiling.stages>;
  /// What is loaded next.
  struct Position {
    Cursor at;
    Place row, term;
  };

  __device__ __forceinline__ Loader(const Params& params, const Head<R, tiling>& head, int first, int last,
                                    int group, Position* position_shared = nullptr)
      : params_(params), head_(head), first_(first), last_(last), group_(group), shared_(position_shared) {
    if (!in_shared || device::thread_index() == 0) set({Cursor::start(first, last), {}, {}});
  }

  /// Starts the next position's loads, if there is one; a ring that the kernel does not have is null. Rows
  /// are loaded to a buffer once all threads that read its earlier rows are past a barrier of their warpgroup
  /// and this thread's stores have read it.
  __device__ __forceinline__ void next(RowRing<R, tiling>* rows, TermRing<R, tiling>* terms) {
    auto [at, row_place, term_place] = get();
    if (!at.within(first_, last_)) return;
    if (loads_rows && (R::rows_are_queries || at.group_head == 0)) {
      device::cp_async_bulk_wait_read<0>();
      RowBuffer<R>& to = rows->buffers[row_place.index];
      device::Mbarrier* const full = rows->barriers.full + row_place.index;
      const Coordinates from = coordinates<R, tiling>(head_, R::rows_are_queries, at.group_head, at.row);
      device::mbarrier_arrive_expect_tx(full, RowBuffer<R>::bytes);
      load_panels(to.a(), params_.a_map, full, from);
      if constexpr (R::has_norm_backward) load_panels(to.norm_input, params_.norm_input_map, full, from);
      row_place.advance();
    }
    if (loads_terms && (!R::rows_are_queries || at.group_head == 0)) {
      terms->barriers.wait_empty(term_place);
      TermBuffer<R>& to = terms->buffers[term_place.index];
      device::Mbarrier* const full = terms->barriers.full + term_place.index;
      const Coordinates from = coordinates<R, tiling>(head_, !R::rows_are_queries, at.group_head, at.row);
      device::mbarrier_arrive_expect_tx(full, TermBuffer<R>::bytes);
      load_panels(to.b, params_.b_map, full, from);
      load_panels(to.c, params_.c_map, full, from);
      term_place.advance();
    }
    at.advance(group_);
    set({at, row_place, term_place});
  }

 private:
  __device__ __forceinline__ Position get() const {
    if constexpr (in_shared)
      return {device::load_shared(&shared_->at), device::load_shared(&shared_->row),
              device::load_shared(&shared_->term)};
    else
      return own_;
  }
  __device__ __forceinline__ void set(const Position& position) {
    if constexpr (in_shared) {
      device::store_shared(&shared_->at, position.at);
      device::store_shared(&shared_->row, position.row);
      device::store_shared(&shared_->term, position.term);
    } else {
      own_ = position;
    }
  }

  const Params& params_;
  const Head<R, tiling>& head_;
  int first_, last_, group_;
  Position* shared_;
  Position own_{};
};

/// Which rows of the chunk at `row` exist and are not masked. Scope: warp; barriers inside: 0.
__device__ __forceinline__ tile::ValidRows<chunk_rows> valid_rows(const tile::SequenceSide& side, int row) {
  return tile::ValidRows<chunk_rows>::load<true>(side.mask, row, side.length);
}
/// Makes the warp's 16 rows of a tile that are not valid zeros. Scope: warp; barriers inside: 0. A
/// fence_proxy_async() and a barrier must be between it and products that read the tile.
template <Element T, int columns>
__device__ __forceinline__ void clear_rows(Tile<T, columns>& tile, const tile::ValidRows<chunk_rows>& valid) {
  using Vec = device::Vector<std::uint32_t, 4>;
  const int row = 16 * warp_in_group() + lane_index() / 2;
  if (valid.contains(row)) return;
#pragma unroll 1
  for (int c = lane_index() % 2 * 8; c < columns; c += 16)
    device::store_shared(reinterpret_cast<Vec*>(tile.at(row, c)), Vec{});
}

}  // namespace cottention::sm90
