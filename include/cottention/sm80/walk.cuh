// The causal recurrence of one head, chunk by chunk:
//
//     out_i = a_i H + sum over visible j of the chunk of (a_i . b_j) c_j
//     H    += sum over j of the chunk of b_j c_j^T
//
// A block walks one piece of a sequence, from the state before it. Rows stay as they are in memory; norms and
// weights are multiplied into scores and sums. The query heads of a group follow one another in each chunk:
// as rows, each has an output of its own; as terms, all enter the one output of their key/value head.
#pragma once

#include <cottention/sm80/epilogue.cuh>
#include <cottention/sm80/intra_chunk.cuh>
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
    typename Part::ScoreTile scores;  // (chunk, chunk)
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
  /// H before the piece; before the first one, the copy of the initial state that Reduce wrote for the last
  /// one.
  static __device__ __forceinline__ void load_state(const Head<R, tiling>& head, StateOf<R, tiling>& state) {
    if (head.order > 0 || (head.params.partial_states != nullptr && head.initial_h() != nullptr))
      state.load_partial(head.partial_state((head.order > 0 ? head.order : head.pieces.count) - 1));
    else
      start_state(head, state);
  }

  static __device__ __forceinline__ void walk(const Head<R, tiling>& head, Epilogue<R, tiling>& epilogue,
                                              Storage& storage) {
    constexpr recurrence::Direction direction = R::direction;
    ChunkFactors<R, tiling> factors(head, storage.factors);
    StateOf<R, tiling> state;
    load_state(head, state);
    [[maybe_unused]] tile::LeadingChunks<Part::chunk, direction> leading{};
    if constexpr (sizeof(T) == 2)
      leading = leading.find(head.terms.mask, head.first, head.last, head.terms.length);
    // Each query head of the group brings rows or terms; the other side is that of their one key/value head.
    constexpr bool queries_are_rows = R::rows_are_queries;
    const auto row_tiles = [&](const auto& at) -> auto& {
      return storage.rows[queries_are_rows ? at.stage : at.shared_stage];
    };
    const auto term_tiles = [&](const auto& at) -> auto& {
      return storage.terms[queries_are_rows ? at.shared_stage : at.stage];
    };
    const auto copy = [&](const auto& at) {
      if (!queries_are_rows || at.group_head == 0) copy_terms(head, at.group_head, at.row, term_tiles(at));
      if (queries_are_rows || at.group_head == 0) copy_rows(head, at.group_head, at.row, row_tiles(at));
    };
    const auto prepare = [&](const auto& at) {
      if (at.group_head == 0) factors.begin_chunk(head, at.row);
    };
    typename Part::Output out;  // (chunk, columns)
    const auto compute = [&](const auto& at) {
      const bool first_head = at.group_head == 0, last_head = at.group_head == head.group - 1;
      const bool new_rows = queries_are_rows || first_head;
      RowTiles<R, tiling>& rows = row_tiles(at);
      TermTiles<R, tiling>& terms = term_tiles(at);
      if (first_head) storage.operand.publish(state);
      factors.enter_chunk();
      if (!queries_are_rows || first_head) factors.measure_terms(head, at.group_head, at.row, terms);
      if (new_rows) {
        factors.prepare_rows(rows.a);
        epilogue.measure(rows);
      }
      device::sync_block();  // factors and state are written, rows of extreme norm rescaled

      const IntraChunk<R, tiling> intra{
          rows.a, terms.b, terms.c, storage.factors.rows.a, storage.factors.term, storage.scores};
      intra.score();
      if (new_rows) {
        storage.operand.apply(state, rows.a, out, factors.over_state());
        factors.scale_inter_chunk(out);
      }
      const typename Part::Values c = sm80::load_values<Recurrence, tiling>(terms.c);
      device::sync_block();  // scores are written
      intra.attend(
          c, sm80::all_finite<Recurrence, tiling>(c), at.row, [&] { return leading; }, out);
      if (queries_are_rows || last_head)
        epilogue.store(queries_are_rows ? at.group_head : 0, at.row, rows, factors, out);
      if (!queries_are_rows || last_head)
        state.absorb(terms.b, c, storage.factors.term, factors.term_exponent(), factors.of_state());
    };
    sm80::for_each_step<Part::stages, Part::chunk, direction>(head.first, head.last, head.group, copy,
                                                              prepare, compute);
    if (head.is_last()) store_final_state(head, state);
  }
};

}  // namespace cottention::sm80
