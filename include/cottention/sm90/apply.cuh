// The bidirectional recurrence of one head: out_i = a_i H, where H is the sum over the whole sequence.
#pragma once

#include <cottention/sm90/epilogue.cuh>
#include <cottention/sm90/products.cuh>
#include <cottention/sm90/reduce.cuh>

namespace cottention::sm90 {

/// H comes from the partial states of Reduce and Prefix; in a call without partial states the block sums it.
/// Blocks: y = M block (the rows of the output that a thread block takes), x as in kernel::RecurrenceParams.
template <kernel::AnyRoles R, Tiling tiling>
struct Apply {
  using T = typename R::element;
  using Roles = R;
  static constexpr bool needs_sm90a = true;
  static constexpr int threads = 32 * warps_of<R>;
  static constexpr int min_blocks_per_sm = tiling.min_blocks_per_sm;

  using Params = RecurrenceParams<T>;
  struct Storage {
    ReduceStorage<R, tiling> reduce;
    RowRing<R, tiling> rows;
    StateTile<T, R::dims.v, R::dims.qk> state;
    StateExponents<T, R::dims.v> exponents;
    ScaleGradSums<R> scale_grad;
  };

  static __device__ __forceinline__ void run(const Params& params, Storage& storage) {
    const Head<R, tiling> head(params);
    const int m_block = device::block_y();
    if (device::thread_index() == 0) {
      storage.rows.barriers.init(1, 1);
      storage.reduce.init();
    }
    StateOf<R> state(group_index() - 1);
    if (params.partial_states == nullptr)
      sum(params, head, state, storage.reduce);
    else if (group_index() > 0)
      state.load_partial(head.partial_state(head.pieces.count - 1));
    if (group_index() > 0) {
      if (m_block == 0) store_final_state(head, state);
      state.publish(storage.state, storage.exponents);
      device::fence_proxy_async();
    }
    ChunkFactors<R, tiling> factors(head, storage.reduce.factors);
    device::sync_block();  // barriers are initialised, the state is published
    Epilogue<R, tiling> epilogue(params, head, storage.scale_grad);
    const int parts = params.m_blocks;
    const tile::Pieces m_blocks(head.rows.length, {.wanted = parts, .min_rows = 1, .max_pieces = parts},
                                chunk_rows);
    if (m_block < m_blocks.count && group_index() == 0)
      answer(params, head, factors, epilogue, m_blocks.first(m_block),
             m_blocks.last(m_block, head.rows.length), storage);
    epilogue.store_scale_grad(parts, storage.reduce.factors.counts.sum);
  }

 private:
  static __device__ __forceinline__ void sum(const Params& params, const Head<R, tiling>& head,
                                             StateOf<R>& state, ReduceStorage<R, tiling>& storage) {
    ChunkFactors<R, tiling> factors(head, storage.factors);
    device::sync_block();  // barriers are initialised
    if (group_index() == 0) {
      measure_piece(params, head, factors, storage);
    } else {
      start_state(head, state);
      sum_piece(head, state, storage);
    }
    device::sync_block();  // what counts and factors need is used again
  }

  /// Scope: the first warpgroup.
  static __device__ __forceinline__ void answer(const Params& params, const Head<R, tiling>& head,
                                                ChunkFactors<R, tiling>& factors,
                                                Epilogue<R, tiling>& epilogue, int first, int last,
                                                Storage& storage) {
    constexpr auto forward = recurrence::Direction::forward;
    const int members = R::rows_are_queries ? head.group : 1;
    Loader<R, tiling, forward, true, false> loader(params, head, first, last, members);
    const bool loads = device::thread_index() == 0;
    if (loads)
      for (int i = 1; i < tiling.stages; ++i) loader.next(&storage.rows, nullptr);
    RingPlace<tiling.stages> place;
#pragma unroll 1
    for (auto at = tile::Cursor<tiling.stages, chunk_rows, forward>::start(first, last);
         at.within(first, last); at.advance(members)) {
      RowBuffer<R>& rows = storage.rows.buffers[place.index];
      storage.rows.barriers.wait_full(place);
      const auto valid = valid_rows(head.rows, at.row);
      if (!valid.all()) {
        clear_rows(rows.a(), valid);
        if constexpr (R::has_norm_backward) clear_rows(rows.norm_input, valid);
        device::sync_warp();
      }
      RowFragments<T, R::dims.qk> a;
      a.load(rows.a());
      factors.measure(
          &rows, a, nullptr, [] {}, [&] { a.load(rows.a()); });
      if (loads) loader.next(&storage.rows, nullptr);
      device::sync_warp();
      Sums<R::dims.v> out;
      start_inter_chunk<T>(out, a, storage.state);
      finish(out);
      if constexpr (std::same_as<T, half>) undo_scales<T>(out, storage.exponents, factors.row_factors());
      epilogue.stage(factors, valid, rows, out);
      sync_first_group();  // the output is in its buffer
      epilogue.store(at.group_head, at.row, rows);
      place.advance();
    }
    if (loads) device::cp_async_bulk_wait<0>();
  }
};

}  // namespace cottention::sm90
