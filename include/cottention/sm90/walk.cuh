// The causal recurrence of one head, chunk by chunk (sm80/walk.cuh has the formula), by warpgroups with a
// part each:
//
//     first     loads, measures, and makes the output: scores, scores c, a H, epilogue
//     others    64 rows of H^T each: publish H before the chunk, add the chunk
//
// A block walks one piece of a sequence, from the state before it.
#pragma once

#include <concepts>

#include <cottention/sm90/epilogue.cuh>
#include <cottention/sm90/products.cuh>
#include <cottention/sm90/reduce.cuh>
#include <cottention/sm90/registers.cuh>

namespace cottention::sm90 {

/// H as it is published, in as many buffers as have room: with two, a chunk is published while the one before
/// is read.
template <kernel::AnyRoles R>
struct StateRing {
  using T = typename R::element;
  using Tile = StateTile<T, R::dims.v, R::dims.qk>;
  static constexpr int size = sizeof(Tile) <= 2 * 64 * 64 * sizeof(T) ? 2 : 1;
  Tile tiles[size];
  StateExponents<T, R::dims.v> exponents[size];
  Ring<size> barriers;
};

template <kernel::AnyRoles R, Tiling tiling>
struct Walk {
  using T = typename R::element;
  using State = StateOf<R>;
  using Roles = R;
  static constexpr bool needs_sm90a = true;
  static constexpr int threads = 32 * warps_of<R>;
  static constexpr int min_blocks_per_sm = tiling.min_blocks_per_sm;
  static constexpr recurrence::Direction direction = R::direction;

  /// Registers of the states and of the operands that are made of terms. Panels of two widths take more; and
  /// a first warpgroup that has more than it needs keeps so much from chunk to chunk that lanes spill.
  static constexpr int state_registers = [] {
    if (std::same_as<T, half> && R::dims.qk > 64) return lacks_registers<R> ? 144 : 152;
    if (R::dims.qk > 64) return R::dims.qk % 64 == 0 || R::has_norm_backward ? 144 : 160;
    if (min_blocks_per_sm > 1) return 104;
    return R::dims.v > 64 && !R::has_norm_backward ? 152 : 128;
  }();
  using Shares = RegisterShares<threads, min_blocks_per_sm, state_registers>;

  using Params = RecurrenceParams<T>;
  using WalkLoader = Loader<R, tiling, direction, true, true, lacks_registers<R>>;
  struct Storage {
    RowRing<R, tiling> rows;
    TermRing<R, tiling> terms;
    StateRing<R> state;
    FactorsStorage<R, tiling> factors;
    typename WalkLoader::Position loading;
    ScaleGradSums<R> scale_grad;
  };

  static __device__ __forceinline__ void run(const Params& params, Storage& storage) {
    if (params.redo_flags != nullptr &&
        device::load_global(params.redo_flags + kernel::piece_index(params)) == 0)
      return;
    const Head<R, tiling> head(params);
    Epilogue<R, tiling> epilogue(params, head, storage.scale_grad);
    // A sequence may have fewer pieces than another of its batch.
    if (head.order < head.pieces.count) {
      init(storage);
      ChunkFactors<R, tiling> factors(head, storage.factors);
      device::sync_block();  // barriers are initialised
      if (group_index() == 0) {
        set_registers<Shares::first, Shares::average>();
        Outputs{params, head, factors, epilogue, storage}.walk();
      } else {
        set_registers<Shares::others, Shares::average>();
        walk_state(head, storage, State(group_index() - 1));
      }
    }
    epilogue.store_scale_grad(params.split_rule.max_pieces, storage.factors.counts.sum);
  }

 private:
  static __device__ __forceinline__ void init(Storage& storage) {
    if (device::thread_index() != 0) return;
    constexpr int state_warps = 4 * State::groups;
    storage.rows.barriers.init(1, 1);
    storage.terms.barriers.init(1, 4 + state_warps);
    storage.factors.init(4 + state_warps);
    storage.state.barriers.init(state_warps, 4);
    device::fence_mbarrier_init();
  }

  static __device__ __forceinline__ void walk_state(const Head<R, tiling>& head, Storage& storage,
                                                    State state) {
    if (R::output == recurrence::Output::dq && head.params.redo_flags != nullptr)
      start_again(head, state);
    else
      start_walk(head, state);
    RingPlace<tiling.stages> term_place;
    RingPlace<2> factor_place;
    RingPlace<StateRing<R>::size> state_place;
    const int members = R::rows_are_queries ? 1 : head.group;
#pragma unroll 1
    for (auto at = Cursor::start(head.first, head.last); at.within(head.first, head.last);
         at.advance(members)) {
      if (at.group_head == 0) {
        storage.state.barriers.wait_empty(state_place);
        state.publish(storage.state.tiles[state_place.index], storage.state.exponents[state_place.index]);
        device::fence_proxy_async();
        storage.state.barriers.arrive_full(state_place);
        state_place.advance();
      }
      absorb_next<R, tiling, FactorsStorage<R, tiling>::are_told>(state, storage.terms, storage.factors,
                                                                  term_place, factor_place);
    }
    if (head.is_last()) store_final_state(head, state);
  }

  using Cursor = tile::Cursor<tiling.stages, chunk_rows, direction>;

  /// The first warpgroup's part.
  struct Outputs {
    const Params& params;
    const Head<R, tiling>& head;
    ChunkFactors<R, tiling>& factors;
    Epilogue<R, tiling>& epilogue;
    Storage& storage;
    RingPlace<tiling.stages> row_place{}, term_place{};
    RingPlace<StateRing<R>::size> state_place{};
    RowFragments<T, R::dims.qk> a{};
    Scores scores{};
    Sums<R::dims.v> out{};

    __device__ __forceinline__ void walk() {
      WalkLoader loader(params, head, head.first, head.last, head.group, &storage.loading);
      const bool loads = device::thread_index() == 0;
      if (loads)
        for (int i = 1; i < tiling.stages; ++i) loader.next(&storage.rows, &storage.terms);
      const auto leading = tile::LeadingChunks<chunk_rows, direction>::find(head.terms.mask, head.first,
                                                                            head.last, head.terms.length);
      auto at = Cursor::start(head.first, head.last);
      if (at.within(head.first, head.last)) factors.begin_chunk(at.row);
      sync_first_group();  // the first weights are written
#pragma unroll 1
      for (; at.within(head.first, head.last); at.advance(head.group)) {
        constexpr bool of_queries = R::rows_are_queries;
        const bool first_head = at.group_head == 0, last_head = at.group_head == head.group - 1;
        const bool new_rows = of_queries || first_head, new_terms = !of_queries || first_head;
        const auto valid = valid_rows(head.rows, at.row);
        RowBuffer<R>& rows = storage.rows.buffers[row_place.index];
        TermBuffer<R>& terms = storage.terms.buffers[term_place.index];
        receive(at.row, valid, new_rows ? &rows : nullptr, new_terms ? &terms : nullptr);
        a.template load<keeps_indices<R>>(rows.a());
        start_scores(scores, a, terms.b);
        if (first_head) factors.enter_chunk();
        factors.measure(
            new_rows ? &rows : nullptr, a, new_terms ? &terms : nullptr, [this] { finish(scores); },
            [&] {
              a.load(rows.a());
              start_scores(scores, a, terms.b);
              finish(scores);
            });
        if (loads) loader.next(&storage.rows, &storage.terms);
        device::sync_warp();
        scale_scores(rows, terms, leading);
        if (new_rows) start_out();
        if (new_terms) factors.wait_told();
        const bool releases_state = of_queries ? last_head : first_head, in_leading = leading.contain(at.row);
        if (factors.terms_are_finite() && !in_leading) {
          start_attend(out, scores, terms.c);
          if (releases_state) release_state();
          finish(out);
        } else {
          finish(out);
          if (releases_state) release_state();
          attend_carefully<direction>(out, scores, terms.c, factors.terms_are_finite());
        }
        if (!of_queries || last_head) release_terms();
        if (of_queries || last_head) {
          epilogue.stage(factors, valid, rows, out);
          if (last_head) begin_next_chunk(at);
          sync_first_group();  // the output is in its buffer, and the next chunk's weights are written
          epilogue.store(of_queries ? at.group_head : 0, at.row, rows);
          row_place.advance();
        }
      }
      if (loads) device::cp_async_bulk_wait<0>();
    }

   private:
    using Valid = tile::ValidRows<chunk_rows>;

    /// Waits for new tiles, and makes rows and terms that do not exist or are masked zeros.
    __device__ __forceinline__ void receive(int row, const Valid& valid, RowBuffer<R>* rows,
                                            TermBuffer<R>* terms) {
      if (rows != nullptr) storage.rows.barriers.wait_full(row_place);
      if (terms != nullptr) storage.terms.barriers.wait_full(term_place);
      const auto valid_terms = valid_rows(head.terms, row);
      if (valid.all() && valid_terms.all()) return;
      if (rows != nullptr) {
        clear_rows(rows->a(), valid);
        if constexpr (R::has_norm_backward) clear_rows(rows->norm_input, valid);
      }
      if (terms != nullptr) {
        clear_rows(terms->b, valid_terms);
        clear_rows(terms->c, valid_terms);
      }
      device::fence_proxy_async();
      sync_first_group();  // rows are cleared
    }

    /// Scores a_i . b_i are exact sums where a piece has few terms in all.
    template <class Leading>
    __device__ __forceinline__ void scale_scores(RowBuffer<R>& rows, TermBuffer<R>& terms,
                                                 const Leading& leading) {
      if (leading.are_all()) replace_diagonal(scores, rows.a(), terms.b);
      scale_and_mask<direction, R::normalizes_all_operands>(scores, factors.terms().factors.full,
                                                            factors.row_factors());
    }

    /// Starts out = a H. It is finished, too, for half, since its columns have to be scaled, and where only
    /// some of a group's members start it: products in flight must not depend on conditions.
    __device__ __forceinline__ void start_out() {
      storage.state.barriers.wait_full(state_place);
      start_inter_chunk<T>(out, a, storage.state.tiles[state_place.index]);
      if constexpr (std::same_as<T, half> || !R::rows_are_queries) finish(out);
      if constexpr (std::same_as<T, half>) {
        const float over = factors.over_state();
        const float of_rows[2] = {factors.row_factors()[0] * over, factors.row_factors()[1] * over};
        undo_scales<T>(out, storage.state.exponents[state_place.index], of_rows);
      }
    }
    /// Once the group of products before the latest one has read H.
    __device__ __forceinline__ void release_state() {
      device::wgmma_wait<1>();
      storage.state.barriers.arrive_empty(state_place);
      state_place.advance();
    }

    __device__ __forceinline__ void release_terms() {
      storage.terms.barriers.arrive_empty(term_place);
      term_place.advance();
      factors.release_terms();
    }

    __device__ __forceinline__ void begin_next_chunk(Cursor at) {
      at.advance(head.group);
      if (at.within(head.first, head.last)) factors.begin_chunk(at.row);
    }
  };
};

}  // namespace cottention::sm90
