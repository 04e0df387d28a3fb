// All gradients of one head in one pass over its chunks, causal.
//
// The walk runs in reverse, as dk and dv have it, with the sum D of terms q g^T behind it. dq wants S, the
// sum of k v^T ahead of it. Nothing decays, so that is known too: S at the end of the sequence is the final
// state, and each chunk takes its own terms out of it. What the rounding of all that leaves in dq is bounded
// at the end, not least by what S is off then; where it could be seen, the head is marked, and Walk does its
// dq again, which sums S from the start.
#pragma once

#include <cottention/sm80/chunk.cuh>
#include <cottention/sm80/fused_backward.cuh>

namespace cottention::sm80 {

template <AnyProblem P, Tiling tiling>
struct Gradient {
  using Block = FusedBackwardBlock<P, tiling>;
  using Part = typename Block::Part;
  using Tile = typename Block::Tile;
  using T = typename Part::T;
  using A = typename Part::A;
  static constexpr int threads = Part::threads;
  static constexpr int min_blocks_per_sm = tiling.min_blocks_per_sm;

  using Params = GradientParams<P>;
  struct ChunkTiles {
    Tile q, k, v, g;
  };
  struct WalkStorage {
    FusedBackwardStorage<P, tiling> fused;
    ChunkTiles chunk[Part::stages];
    typename Part::ScoreTile dq_scores, dk_scores, dv_scores;
  };
  /// The chunks that few keys come before, and those that few queries come after.
  struct Leading {
    tile::LeadingChunks<Part::chunk, tile::Direction::forward> keys;
    tile::LeadingChunks<Part::chunk, tile::Direction::reverse> queries;

    /// By the whole block, before a barrier.
    __device__ __forceinline__ void set(const typename Block::Queries& of_queries,
                                        const typename Block::Keys& of_keys) {
      const auto find = [](auto& chunks, const auto& head) {
        const auto found = chunks.find(head.terms.mask, head.first, head.last, head.terms.length);
        if (device::thread_index() == 0) device::store_shared(&chunks.end, found.end);
      };
      find(keys, of_queries);
      find(queries, of_keys);
    }
  };
  struct Storage {
    FusedBackwardRows<P, tiling> rows;
    Leading leading;
    union {
      ReduceStorage<typename Block::Roles::Dq, tiling> reduce;
      WalkStorage walk;
    };
  };

  static __device__ __forceinline__ void run(const Params& params, Storage& storage) {
    const typename Block::Queries queries(params.dq);
    typename Block::State s;
    Block::load_state(params, queries, s, storage.reduce);
    const typename Block::Keys keys(params.dk);
    storage.leading.set(queries, keys);
    if (device::thread_index() == 0) storage.rows.set(params, queries, keys);
    Block block(params, queries, keys, storage.rows, storage.walk.fused);
    Steps steps{block, s, storage.leading, storage.walk};
    steps.observe_state();
    const auto copy = [&](const auto& at) {
      ChunkTiles& to = storage.walk.chunk[at.stage];
      block.copy_queries(0, at.row, to.q, to.g);
      block.copy_keys(at.row, to.k, to.v);
    };
    const auto prepare = [&](const auto& at) { block.begin_chunk(at.row); };
    const auto compute = [&](const auto& at) { steps.step(at.row, storage.walk.chunk[at.stage]); };
    sm80::for_each_step<Part::stages, Part::chunk, reverse>(0, keys.last, 1, copy, prepare, compute);
    block.store_d();
    block.store_scale_grad_partials();
    steps.set_redo_flag();
  }

 private:
  static constexpr tile::Direction forward = tile::Direction::forward, reverse = tile::Direction::reverse;

  struct Steps {
    Block& block;
    typename Block::State& s;  // what comes before the chunks that have been walked
    const Leading& leading;
    WalkStorage& storage;

    __device__ __forceinline__ void step(int row, ChunkTiles& chunk) {
      block.weights.enter_chunk();
      block.measure_queries(chunk.q, chunk.g);
      block.measure_keys(chunk.k, chunk.v);
      device::sync_block();  // factors are written, rows of extreme length rescaled
      block.observe_rows();
      const GradientFactors<Part>& factors = storage.fused.factors;
      const int key_exponent = block.key_exponent(), query_exponent = block.query_exponent();
      const A key_weight = block.key_weight(), query_weight = block.query_weight();
      const A over_query_weight = device::div_rn(A{1}, query_weight);

      score<forward, score_rows>(chunk.g, chunk.v, factors.g, factors.key_term, storage.dq_scores, 0);
      score<reverse, score_rows>(chunk.v, chunk.g, factors.v, factors.query_term, storage.dk_scores, 1);
      score<reverse, score_rows>(chunk.k, chunk.q, storage.fused.k.rnorm, factors.query_term,
                                 storage.dv_scores, 2);
      typename Part::Output out;
      {  // dq
        const typename Part::Values k = Block::load(chunk.k);
        s.absorb(chunk.v, k, factors.key_term, key_exponent, -key_weight);  // taken out
        observe_state();
        // Where rows are apart, S and D take turns in shared memory; otherwise S serves from registers.
        storage.fused.state.publish(Part::splits_m ? s : block.d);
        device::sync_block();  // scores and state are written
        const A over_key_weight = device::div_rn(A{1}, key_weight);
        if constexpr (Part::splits_m)
          storage.fused.state.apply(chunk.g, out, over_key_weight);
        else
          s.apply(chunk.g, out, over_key_weight);
        block.scale_prefix(out, factors.g);
        attend<forward>(chunk.g, chunk.v, factors.g, factors.key_term, storage.dq_scores, chunk.k, k,
                        block.rows_finite(Block::Rows::k), row, leading.keys, out);
        block.scale_dq(out, key_weight);
        observe(out, [&](auto elements) { storage.fused.dq_error.observe_grad_unit_q(elements); });
        block.store_dq(0, row, chunk.q, out);
        observe(out, [&](auto elements) { storage.fused.dq_error.observe_dq(elements); });
        if constexpr (Part::splits_m) {
          storage.fused.state.publish(block.d);  // all warps were done with S where those of dq met
          device::sync_block();                  // D is written
        }
      }
      {  // dk
        const typename Part::Values q = Block::load(chunk.q);
        storage.fused.state.apply_transposed(chunk.v, out, over_query_weight);
        block.scale_prefix(out, factors.v);
        attend<reverse>(chunk.v, chunk.g, factors.v, factors.query_term, storage.dk_scores, chunk.q, q,
                        block.rows_finite(Block::Rows::q), row, leading.queries, out);
        block.scale_dk(out, query_weight);
        block.store_dk(row, chunk.k, out);
      }
      {  // dv
        const typename Part::Values g = Block::load(chunk.g);
        storage.fused.state.apply(chunk.k, out, over_query_weight);
        block.scale_prefix(out, storage.fused.k.rnorm);
        attend<reverse>(chunk.k, chunk.q, storage.fused.k.rnorm, factors.query_term, storage.dv_scores,
                        chunk.g, g, block.rows_finite(Block::Rows::g), row, leading.queries, out);
        block.scale_dv(out, query_weight);
        block.store_dv(row, out);
        block.d.absorb(chunk.q, g, factors.query_term, query_exponent, query_weight);
      }
    }

    // ---- what the error bound of dq follows from

    __device__ __forceinline__ void observe_state() { storage.fused.dq_error.observe_state(s.squares()); }
    /// observe(for_each): for_each(f) calls f with each of the lane's elements of `out`.
    template <class Observe>
    static __device__ __forceinline__ void observe(typename Part::Output& out, Observe observe) {
      observe([&out](auto f) { sm80::for_each_sum<Part>(out, [&f](A& x, int, int) { f(x); }); });
    }

    /// Has the head's dq computed by Walk unless its error is within bounds. Scope: block; 18 barriers
    /// inside.
    __device__ __forceinline__ void set_redo_flag() {
      const A* initial = block.params.dq.initial_h;
      if (initial != nullptr) initial += block.queries.state_offset();
      const int chunks = (device::load_shared(&block.rows.keys.length) + Part::chunk - 1) / Part::chunk;
      const bool exceeds = storage.fused.dq_error.exceeds(
          s.squared_distance(initial, block.params.dq.layout, 0), chunks, block.params.dq.out.data != nullptr,
          Block::weighs_queries && block.params.dq.scale_grad_partials != nullptr, storage.fused.counts.sum);
      if (device::thread_index() == 0)
        device::store_global(block.params.redo_flags + device::block_x(), exceeds ? 1 : 0);
    }
  };

  static constexpr auto score_rows =
      Block::Roles::normalizes_all_operands ? sm80::ScoreRows::scaled : sm80::ScoreRows::unscaled;
  template <tile::Direction direction, sm80::ScoreRows score_rows>
  static __device__ __forceinline__ void score(const Tile& a, const Tile& b, const A* row,
                                               const sm80::TermFactors<T, Part::chunk>& term,
                                               typename Part::ScoreTile& scores, int turn) {
    constexpr int blocks = Part::row_blocks * (Part::row_blocks + 1) / 2;
    sm80::score<typename Block::Roles::Recurrence, tiling, direction, score_rows>(a, b, row, term, scores,
                                                                                  turn * blocks);
  }
  template <tile::Direction direction>
  static __device__ __forceinline__ void attend(
      const Tile& a, const Tile& b, const A* row, const sm80::TermFactors<T, Part::chunk>& term,
      typename Part::ScoreTile& scores, const Tile& tile, const typename Part::Values& values, bool finite,
      int row_of_chunk, const tile::LeadingChunks<Part::chunk, direction>& leading_shared,
      typename Part::Output& out) {
    using Recurrence = typename Block::Roles::Recurrence;
    sm80::attend<Recurrence, tiling, direction>(scores, tile, values, finite, out);
    const tile::LeadingChunks<Part::chunk, direction> leading{device::load_shared(&leading_shared.end)};
    if (leading.contain(row_of_chunk))
      sm80::attend_rest<Recurrence, tiling, direction, score_rows>(a, b, row, term, scores, tile, values,
                                                                   finite, leading.are_all(), out);
  }
};

}  // namespace cottention::sm80
