// The bidirectional recurrence of one head: out_i = a_i H with H the sum over the whole sequence.
#pragma once

#include <cottention/kernel/epilogue.cuh>
#include <cottention/kernel/reduce.cuh>
#include <cottention/tile/shared_state.cuh>

namespace cottention::kernel {

/// The sum comes from the images that Reduce and Prefix left, or without such from the block itself, which
/// then has the sequence to itself. Blocks: y = part of the rows, x and z as in RecurrenceParams.
template <AnyRoles R, Tiling tiling>
struct Apply {
  using Part = PartOf<R, tiling>;
  using T = typename R::element;
  static constexpr int threads = Part::threads;
  static constexpr int blocks_per_multiprocessor = tiling.blocks;

  using Params = RecurrenceParams<T>;
  struct RowStorage {
    RowTiles<R, tiling> rows[Part::stages];
    Factors<Part> factors;
    EpilogueStorage<R, tiling> epilogue;
    tile::StateOperand<typename R::Recurrence, tiling> operand;
  };
  union Storage {
    ReduceStorage<R, tiling> reduce;
    RowStorage apply;
  };

  static __device__ __forceinline__ void run(const Params& params, Storage& storage) {
    const Head<R, tiling> head(params);
    const int part = device::block_y();
    StateOf<R, tiling> state;
    if (params.images != nullptr) {
      state.load_image(head.image(head.pieces.count - 1));
    } else {
      ChunkFactors<R, tiling> factors(head, storage.reduce.factors);
      start_state(head, state);
      reduce_piece(head, factors, state, storage.reduce);
      device::sync_block();  // tiles of terms are read; their memory is used again
    }
    if (part == 0) store_final_state(head, state);
    ChunkFactors<R, tiling> factors(head, storage.apply.factors);
    Epilogue<R, tiling> epilogue(head, storage.apply.epilogue);
    const Pieces parts = row_parts(head);
    if (part < parts.count)
      answer(head, factors, epilogue, state, parts.first(part), parts.last(part, head.rows.length),
             storage.apply);
    epilogue.store_log_sum(params.row_parts, storage.apply.factors.counts.sum);
  }

 private:
  static __device__ __forceinline__ void answer(const Head<R, tiling>& head, ChunkFactors<R, tiling>& factors,
                                                Epilogue<R, tiling>& epilogue,
                                                const StateOf<R, tiling>& state, int first, int last,
                                                RowStorage& storage) {
    storage.operand.share(state);
    const auto copy = [&](const auto& at) { copy_rows(head, at.member, at.row, storage.rows[at.stage]); };
    const auto compute = [&](const auto& at) {
      RowTiles<R, tiling>& rows = storage.rows[at.stage];
      factors.measure_rows(rows.a);
      epilogue.measure(rows);
      device::sync_block();  // factors are written, rows of extreme length rescaled
      typename Part::Output out;
      storage.operand.apply(state, rows.a, out);
      factors.scale_prefix(out);
      epilogue.store(at.member, at.row, rows, factors, out);
    };
    const int members = R::rows_are_queries ? head.group : 1;
    tile::for_each_step<Part::stages, Part::chunk, tile::Direction::forward>(
        first, last, members, copy, [](const auto&) {}, compute);
  }
};

}  // namespace cottention::kernel
