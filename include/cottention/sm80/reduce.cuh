// The sum over a piece of a sequence, H = sum of b_j c_j^T, which reads b and c alone.
#pragma once

#include <cottention/sm80/chunk.cuh>
#include <cottention/sm80/factors.cuh>

namespace cottention::sm80 {

/// The shared memory of reduce_piece().
template <kernel::AnyRoles R, Tiling tiling>
struct ReduceStorage {
  TermTiles<R, tiling> terms[tiling.stages];
  Factors<PartOf<R, tiling>> factors;
};

/// Adds the block's piece to `state`, H (dims.qk, columns). No copy is in flight after it.
/// Scope: block; barriers inside: 2, or 3 with one stage, and those of measure_terms(), for each chunk and
/// query head that brings terms.
template <kernel::AnyRoles R, Tiling tiling>
__device__ __forceinline__ void reduce_piece(const Head<R, tiling>& head, ChunkFactors<R, tiling>& factors,
                                             StateOf<R, tiling>& state, ReduceStorage<R, tiling>& storage) {
  using Recurrence = typename R::Recurrence;
  using Part = PartOf<R, tiling>;
  const auto copy = [&](const auto& at) { copy_terms(head, at.group_head, at.row, storage.terms[at.stage]); };
  const auto prepare = [&](const auto& at) {
    if (at.group_head == 0) factors.begin_chunk(head, at.row);
  };
  const auto compute = [&](const auto& at) {
    TermTiles<R, tiling>& terms = storage.terms[at.stage];
    factors.enter_chunk();
    factors.measure_terms(head, at.group_head, at.row, terms);
    device::sync_block();  // factors are written, rows of extreme norm rescaled
    state.absorb(terms.b, sm80::load_values<Recurrence, tiling>(terms.c), storage.factors.term,
                 factors.term_exponent(), factors.of_state());
  };
  const int group_heads = R::rows_are_queries ? 1 : head.group;
  sm80::for_each_step<Part::stages, Part::chunk, R::direction>(head.first, head.last, group_heads, copy,
                                                               prepare, compute);
}

/// Writes the partial state of each piece. In a causal call no block needs the sum of the piece that is last
/// in the order of the walk. Its partial state is a copy of the caller's initial state instead, which Walk's
/// first block reads: Walk's last block writes the final state, maybe to the memory of the initial one, and
/// blocks run in any order.
template <kernel::AnyRoles R, Tiling tiling>
struct Reduce {
  static constexpr int threads = PartOf<R, tiling>::threads;
  static constexpr int min_blocks_per_sm = tiling.min_blocks_per_sm;

  using Params = kernel::RecurrenceParams<typename R::element>;
  using Storage = ReduceStorage<R, tiling>;

  static __device__ __forceinline__ void run(const Params& params, Storage& storage) {
    const Head<R, tiling> head(params);
    if (head.order >= head.pieces.count) return;
    StateOf<R, tiling> state;
    if (R::mask == Mask::causal && head.is_last()) {
      const auto* h = head.initial_h();
      if (h == nullptr) return;
      state.load(h, params.layout, head.column);
    } else {
      ChunkFactors<R, tiling> factors(head, storage.factors);
      start_state(head, state);
      reduce_piece(head, factors, state, storage);
    }
    state.store_partial(head.partial_state(head.order));
  }
};

}  // namespace cottention::sm80
