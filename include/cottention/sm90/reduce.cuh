// The sum over a piece of a sequence, H = sum of b_j c_j^T, which reads b and c alone.
#pragma once

#include <cottention/sm90/factors.cuh>

namespace cottention::sm90 {

template <kernel::AnyRoles R>
using StateOf = State<typename R::element, R::dims>;

/// Sets a state to that before a piece: the caller's initial state before the first one in the order of the
/// walk, zero before the others. Scope: warpgroup.
template <kernel::AnyRoles R, Tiling tiling>
__device__ __forceinline__ void start_state(const Head<R, tiling>& head, StateOf<R>& state) {
  if (const auto* h = head.order == 0 ? head.initial_h() : nullptr; h != nullptr)
    state.load(h, head.params.layout);
  else
    state.set_zero();
}
/// The same for a walk, which has H before its piece from Reduce and Prefix; before the first one, the copy
/// of the initial state that Reduce wrote for the last one.
template <kernel::AnyRoles R, Tiling tiling>
__device__ __forceinline__ void start_walk(const Head<R, tiling>& head, StateOf<R>& state) {
  if (head.order > 0 || (head.params.partial_states != nullptr && head.initial_h() != nullptr))
    state.load_partial(head.partial_state((head.order > 0 ? head.order : head.pieces.count) - 1));
  else
    start_state(head, state);
}
/// The same for dq that is made again, whose state before a piece is S as Gradient (gradient.cuh) had it.
/// Scope: warpgroup.
template <kernel::AnyRoles R, Tiling tiling>
__device__ __forceinline__ void start_again(const Head<R, tiling>& head, StateOf<R>& state) {
  if (head.order > 0)
    state.load_transposed_partial(head.partial_state(head.order - 1));
  else
    start_state(head, state);
}
/// Writes the state (dims.qk, dims.v) where the caller wants it. Scope: warpgroup.
template <kernel::AnyRoles R, Tiling tiling>
__device__ __forceinline__ void store_final_state(const Head<R, tiling>& head, StateOf<R>& state) {
  if (auto* h = head.final_h(); h != nullptr) state.store(h, head.params.layout);
}

/// Adds the next terms to a state, and releases them. tells: the first warpgroup waits to be told whether c
/// is finite. Scope: warpgroup, one of those that have the state.
template <kernel::AnyRoles R, Tiling tiling, bool tells = false>
__device__ __forceinline__ void absorb_next(StateOf<R>& state, TermRing<R, tiling>& terms,
                                            FactorsStorage<R, tiling>& factors,
                                            RingPlace<tiling.stages>& term_place,
                                            RingPlace<2>& factor_place) {
  terms.barriers.wait_full(term_place);
  factors.barriers.wait_full(factor_place);
  TermBuffer<R>& buffer = terms.buffers[term_place.index];
  state.template absorb<!R::normalizes_all_operands>(
      buffer.b, buffer.c, factors.terms[factor_place.index], [&](const std::uint32_t(&c)[4][4]) {
        if constexpr (tells) factors.tell(factor_place, are_finite<typename R::element>(c));
      });
  terms.barriers.arrive_empty(term_place);
  factors.barriers.arrive_empty(factor_place);
  term_place.advance();
  factor_place.advance();
}

/// The shared memory of reduce_piece().
template <kernel::AnyRoles R, Tiling tiling>
struct ReduceStorage {
  TermRing<R, tiling> terms;
  FactorsStorage<R, tiling> factors;

  /// Scope: thread 0.
  __device__ __forceinline__ void init() {
    terms.barriers.init(1, 4 * StateOf<R>::groups);
    factors.init(4 * StateOf<R>::groups);
    device::fence_mbarrier_init();
  }
};

/// Loads and measures the terms of a piece. Scope: the first warpgroup.
template <kernel::AnyRoles R, Tiling tiling>
__device__ __forceinline__ void measure_piece(const RecurrenceParams<typename R::element>& params,
                                              const Head<R, tiling>& head, ChunkFactors<R, tiling>& factors,
                                              ReduceStorage<R, tiling>& storage) {
  const int members = R::rows_are_queries ? 1 : head.group;
  Loader<R, tiling, R::direction, false, true> loader(params, head, head.first, head.last, members);
  const bool loads = device::thread_index() == 0;
  if (loads)
    for (int i = 1; i < tiling.stages; ++i) loader.next(nullptr, &storage.terms);
  RingPlace<tiling.stages> place;
#pragma unroll 1
  for (auto at = tile::Cursor<tiling.stages, chunk_rows, R::direction>::start(head.first, head.last);
       at.within(head.first, head.last); at.advance(members)) {
    if (at.group_head == 0) {
      factors.begin_chunk(at.row);
      sync_first_group();  // the chunk's weights are written
      factors.enter_chunk();
    }
    TermBuffer<R>& terms = storage.terms.buffers[place.index];
    storage.terms.barriers.wait_full(place);
    const auto valid = valid_rows(head.terms, at.row);
    if (!valid.all()) {
      clear_rows(terms.b, valid);
      clear_rows(terms.c, valid);
      device::fence_proxy_async();
      sync_first_group();  // rows are cleared
    }
    factors.measure(
        nullptr, {}, &terms, [] {}, [] {});
    factors.skip_terms();
    place.advance();
    if (loads) loader.next(nullptr, &storage.terms);
    device::sync_warp();
  }
}
/// Adds a piece to a state. Scope: warpgroup, one of those that have the state.
template <kernel::AnyRoles R, Tiling tiling>
__device__ __forceinline__ void sum_piece(const Head<R, tiling>& head, StateOf<R>& state,
                                          ReduceStorage<R, tiling>& storage) {
  const int members = R::rows_are_queries ? 1 : head.group;
  RingPlace<tiling.stages> term_place;
  RingPlace<2> factor_place;
#pragma unroll 1
  for (auto at = tile::Cursor<tiling.stages, chunk_rows, R::direction>::start(head.first, head.last);
       at.within(head.first, head.last); at.advance(members))
    absorb_next<R, tiling>(state, storage.terms, storage.factors, term_place, factor_place);
}

/// Writes the partial state of each piece. In a causal call no block of Walk needs the sum of the piece that
/// is last in the order of the walk. Unless sums_last_piece asks for it, its partial state is a copy of the
/// caller's initial state instead, which Walk's first block reads: Walk's last block writes the final state,
/// maybe to the memory of the initial one, and blocks run in any order.
template <kernel::AnyRoles R, Tiling tiling>
struct Reduce {
  using T = typename R::element;
  using Roles = R;
  static constexpr bool needs_sm90a = true;
  static constexpr int threads = 32 * warps_of<R>;
  static constexpr int min_blocks_per_sm = tiling.min_blocks_per_sm;

  using Params = RecurrenceParams<T>;
  using Storage = ReduceStorage<R, tiling>;

  static __device__ __forceinline__ void run(const Params& params, Storage& storage) {
    const Head<R, tiling> head(params);
    if (head.order >= head.pieces.count) return;
    const bool copies_initial = R::mask == Mask::causal && head.is_last() && !params.sums_last_piece;
    if (copies_initial && head.initial_h() == nullptr) return;
    if (device::thread_index() == 0) storage.init();
    ChunkFactors<R, tiling> factors(head, storage.factors);
    device::sync_block();  // barriers are initialised
    if (group_index() == 0) {
      if (!copies_initial) measure_piece(params, head, factors, storage);
      return;
    }
    StateOf<R> state(group_index() - 1);
    if (copies_initial) {
      state.load(head.initial_h(), params.layout);
    } else {
      start_state(head, state);
      sum_piece(head, state, storage);
    }
    state.store_partial(head.partial_state(head.order));
  }
};

}  // namespace cottention::sm90
