// The bidirectional recurrence of one head: out_i = a_i H, where H is the sum over the whole sequence.
#pragma once

#include <cottention/sm80/epilogue.cuh>
#include <cottention/sm80/reduce.cuh>
#include <cottention/sm80/shared_state.cuh>

namespace cottention::sm80 {

/// H comes from the partial states of Reduce and Prefix; in a call without partial states the block sums it.
/// Blocks: y = M block (the rows of the output that a thread block takes), x and z as in
/// kernel::RecurrenceParams.
template <kernel::AnyRoles R, Tiling tiling>
struct Apply {
  using Part = PartOf<R, tiling>;
  using T = typename R::element;
  static constexpr int threads = Part::threads;
  static constexpr int min_blocks_per_sm = tiling.min_blocks_per_sm;

  using Params = kernel::RecurrenceParams<T>;
  struct RowStorage {
    RowTiles<R, tiling> rows[Part::stages];
    Factors<Part> factors;
    EpilogueStorage<R, tiling> epilogue;
    sm80::StateOperand<typename R::Recurrence, tiling> operand;
  };
  union Storage {
    ReduceStorage<R, tiling> reduce;
    RowStorage apply;
  };

  static __device__ __forceinline__ void run(const Params& params, Storage& storage) {
    const Head<R, tiling> head(params);
    const int m_block = device::block_y();
    StateOf<R, tiling> state;
    if (params.partial_states != nullptr) {
      state.load_partial(head.partial_state(head.pieces.count - 1));
    } else {
      ChunkFactors<R, tiling> factors(head, storage.reduce.factors);
      start_state(head, state);
      reduce_piece(head, factors, state, storage.reduce);
      device::sync_block();  // tiles of terms are read; their memory is used again
    }
    if (m_block == 0) store_final_state(head, state);
    ChunkFactors<R, tiling> factors(head, storage.apply.factors);
    Epilogue<R, tiling> epilogue(head, storage.apply.epilogue);
    const tile::Pieces m_blocks = m_blocks_of(head);
    if (m_block < m_blocks.count)
      answer(head, factors, epilogue, state, m_blocks.first(m_block),
             m_blocks.last(m_block, head.rows.length), storage.apply);
    epilogue.store_scale_grad(params.m_blocks, storage.apply.factors.counts.sum);
  }

 private:
  static __device__ __forceinline__ void answer(const Head<R, tiling>& head, ChunkFactors<R, tiling>& factors,
                                                Epilogue<R, tiling>& epilogue,
                                                const StateOf<R, tiling>& state, int first, int last,
                                                RowStorage& storage) {
    storage.operand.publish(state);
    const auto copy = [&](const auto& at) { copy_rows(head, at.group_head, at.row, storage.rows[at.stage]); };
    const auto compute = [&](const auto& at) {
      RowTiles<R, tiling>& rows = storage.rows[at.stage];
      factors.prepare_rows(rows.a);
      epilogue.measure(rows);
      device::sync_block();       // factors are written, rows of extreme norm rescaled
      typename Part::Output out;  // (chunk, columns)
      storage.operand.apply(state, rows.a, out);
      factors.scale_inter_chunk(out);
      epilogue.store(at.group_head, at.row, rows, factors, out);
    };
    const int group_heads = R::rows_are_queries ? head.group : 1;
    sm80::for_each_step<Part::stages, Part::chunk, recurrence::Direction::forward>(
        first, last, group_heads, copy, [](const auto&) {}, compute);
  }
};

}  // namespace cottention::sm80
