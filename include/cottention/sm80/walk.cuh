// The causal recurrence of one head, chunk by chunk:
//
//     out_i = a_i H + sum over visible j of the chunk of (a_i . b_j) c_j
//     H    += sum over j of the chunk of b_j c_j^T
//
// A block walks one piece of a sequence, from the state before it. Rows stay as they are in memory; what
// their norms and weights change is multiplied into scores and sums. A group of query heads takes turns in
// each chunk: as rows, each with an output of its own; as terms, which all enter the one output of their key.
#pragma once

#include <cottention/sm80/epilogue.cuh>
#include <cottention/sm80/reduce.cuh>
#include <cottention/sm80/shared_state.cuh>

namespace cottention::sm80 {

template <kernel::AnyRoles R, Tiling tiling>
struct Walk {
  using Recurrence = typename R::Recurrence;
  using Part = PartOf<R, tiling>;
  using T = typename R::element;
  static constexpr int threads = Part::threads;
  static constexpr int min_blocks_per_sm = tiling.min_blocks_per_sm;

  using Params = kernel::RecurrenceParams<T>;
  struct Storage {
    RowTiles<R, tiling> rows[Part::stages];
    TermTiles<R, tiling> terms[Part::stages];
    typename Part::ScoreTile scores;
    sm80::StateOperand<Recurrence, tiling> operand;
    Factors<Part> factors;
    EpilogueStorage<R, tiling> epilogue;
  };

  static __device__ __forceinline__ void run(const Params& params, Storage& storage) {
    if (params.redo_flags != nullptr && device::load_global(params.redo_flags + device::block_x()) == 0)
      return;
    const Head<R, tiling> head(params);
    Epilogue<R, tiling> epilogue(head, storage.epilogue);
    if (head.order < head.pieces.count) walk(head, epilogue, storage);
    epilogue.store_scale_grad(params.split_rule.max_pieces, storage.factors.counts.sum);
  }

 private:
  static __device__ __forceinline__ void walk(const Head<R, tiling>& head, Epilogue<R, tiling>& epilogue,
                                              Storage& storage) {
    constexpr tile::Direction direction = R::direction;
    ChunkFactors<R, tiling> factors(head, storage.factors);
    StateOf<R, tiling> state;
    // The sum up to the piece before; for the first, the initial state that Reduce left with the last.
    if (head.order > 0 || (head.params.partial_states != nullptr && head.params.initial_h != nullptr))
      state.load_partial(head.partial_state((head.order > 0 ? head.order : head.pieces.count) - 1));
    else
      start_state(head, state);

    [[maybe_unused]] tile::LeadingChunks<Part::chunk, direction> leading{};
    if constexpr (sizeof(T) == 2)
      leading = leading.find(head.terms.mask, head.first, head.last, head.terms.length);
    const auto row_tiles = [&](const auto& at) -> auto& {
      return storage.rows[R::rows_are_queries ? at.stage : at.shared_stage];
    };
    const auto term_tiles = [&](const auto& at) -> auto& {
      return storage.terms[R::rows_are_queries ? at.shared_stage : at.stage];
    };
    const auto copy = [&](const auto& at) {
      if (!R::rows_are_queries || at.group_head == 0) copy_terms(head, at.group_head, at.row, term_tiles(at));
      if (R::rows_are_queries || at.group_head == 0) copy_rows(head, at.group_head, at.row, row_tiles(at));
    };
    const auto prepare = [&](const auto& at) {
      if (at.group_head == 0) factors.begin_chunk(head, at.row);
    };
    typename Part::Output out;
    const auto compute = [&](const auto& at) {
      RowTiles<R, tiling>& rows = row_tiles(at);
      TermTiles<R, tiling>& terms = term_tiles(at);
      if (at.group_head == 0) storage.operand.publish(state);
      factors.enter_chunk();
      const bool new_rows = R::rows_are_queries || at.group_head == 0;
      const bool last_terms = R::rows_are_queries || at.group_head == head.group - 1;
      if (!R::rows_are_queries || at.group_head == 0)
        factors.measure_terms(head, at.group_head, at.row, terms);
      if (new_rows) {
        factors.rescale_and_measure_rows(rows.a);
        epilogue.measure(rows);
      }
      device::sync_block();  // factors and state are written, rows of extreme length rescaled

      constexpr auto score_rows =
          R::normalizes_all_operands ? sm80::ScoreRows::scaled : sm80::ScoreRows::unscaled;
      sm80::score<Recurrence, tiling, direction, score_rows>(rows.a, terms.b, storage.factors.row,
                                                             storage.factors.term, storage.scores);
      if (new_rows) {
        storage.operand.apply(state, rows.a, out, factors.over_state());
        factors.scale_prefix(out);
      }
      const typename Part::Values values = sm80::load_values<Recurrence, tiling>(terms.c);
      device::sync_block();  // scores are written

      const bool finite = sm80::all_finite<Recurrence, tiling>(values);
      sm80::attend<Recurrence, tiling, direction>(storage.scores, terms.c, values, finite, out);
      if constexpr (sizeof(T) == 2)
        if (leading.contain(at.row))
          sm80::attend_rest<Recurrence, tiling, direction, score_rows>(
              rows.a, terms.b, storage.factors.row, storage.factors.term, storage.scores, terms.c, values,
              finite, leading.are_all(), out);
      if (last_terms) epilogue.store(R::rows_are_queries ? at.group_head : 0, at.row, rows, factors, out);
      if (!R::rows_are_queries || at.group_head == head.group - 1)
        state.absorb(terms.b, values, storage.factors.term, factors.term_exponent(), factors.of_state());
    };
    sm80::for_each_step<Part::stages, Part::chunk, direction>(head.first, head.last, head.group, copy,
                                                              prepare, compute);
    if (head.is_last()) store_final_state(head, state);
  }
};

}  // namespace cottention::sm80
