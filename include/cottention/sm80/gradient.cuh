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
        observe(out, storage.fused.squares.unit_dq);
        block.store_dq(0, row, chunk.q, out);
        observe(out, storage.fused.squares.dq);
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

    // ---- the bound on dq: E, what rounding is taken to have left in S, times g, with the weights and
    // 1 / ||q|| that dq has, and without 1 / ||q||, which may vary so much that a few rows are all of the
    // sum. The terms of a chunk are taken out with a relative error of `term_error`, and the sum is rounded
    // each time; such errors add up like independent ones, but for chunks that come again, whose rounding
    // adds up as it is. What errors that lean one way have added up to, S itself tells at the end: it should
    // be the initial state then. Scaled by query, the gradient of m is made of q^ . dq^, and bounded
    // likewise: 1 / sqrt(dim_qk) of an error falls on q^, and where more does, again and again, S tells.

    static constexpr bool is_half = std::same_as<T, half>;
    /// Of the split operands, at most: equal terms err alike.
    static constexpr double split_error = is_half ? 0x1p-20 : 0x1p-15;
    /// Of the sum of a chunk, which the tensor cores cut off with each of their products, and so always make
    /// smaller: in a model of those that cut off most, of equal terms at most 2^-18.9 (2^-19.6 in bf16) for
    /// the forward call's chunks of 64, half of it for 32. What is taken out errs the same way, so what is
    /// left is at most the greater of both.
    static constexpr double cut_error = is_half ? 0x1.2p-19 : 0x1p-19;
    static constexpr double term_error = split_error + cut_error;
    /// In the mean square, of one addition in fp32 by the forward call and one here: 2^-23 / sqrt(12) of the
    /// power of two below the sum, twice.
    static constexpr double sum_error = 0x1.3p-25;
    /// Of the sum in each chunk, while equal chunks are added: roundings of a binade then lean one way, and
    /// those of the forward call's longer chunks another. 2^-26.3 in a model of both with 2^20 equal tokens.
    static constexpr double repeated_sum_error = 0x1p-26;
    /// Of the length of dq. With what rounding dq to its type costs, 2^-9.2 or 2^-12.2, it stays within the
    /// accuracy of gradients, 2^-7.4 or 2^-10.
    static constexpr double allowed_error = is_half ? 0x1p-11 : 0x1p-8;

    __device__ __forceinline__ void observe_state() {
      const float x = s.squares();
      float* const largest = storage.fused.squares.s + device::thread_index();
      if (x > device::load_shared(largest) || !device::is_finite(x)) device::store_shared(largest, x);
    }
    static __device__ __forceinline__ void observe(typename Part::Output& out, float* of_threads) {
      float* const sum = of_threads + device::thread_index();
      float squares = device::load_shared(sum);
      sm80::for_each_sum<Part>(out, [&squares](A& x, int, int) { squares = device::fma(x, x, squares); });
      device::store_shared(sum, squares);
    }

    /// Sums of squares outside may have lost to fp32's range what counts. Within they have not, though
    /// squares vanish from 2^-126 down with fast-math.
    static constexpr double least_squares = 0x1p-80, most_squares = 0x1p100;

    /// Marks the head unless its bounds are within what is allowed.
    __device__ __forceinline__ void set_redo_flag() {
      const auto over_block = [&](double x) {
        device::sync_block();  // readers of the sum before are done
        return device::sum_over_block<threads>(x, storage.fused.counts.sum);
      };
      const auto total = [&](const float* squares) {
        return over_block(device::load_shared(squares + device::thread_index()));
      };
      const Squares<threads>& squares = storage.fused.squares;
      const A* initial = block.params.dq.initial_h;
      if (initial != nullptr) initial += block.queries.state_offset();
      const double off_total = over_block(s.squared_distance(initial, block.params.dq.layout, 0));
      const double s_total = total(squares.s), v_total = total(squares.v);
      const double g_total = total(squares.g), dq_total = total(squares.dq);
      const double unit_g_total = total(squares.unit_g), unit_dq_total = total(squares.unit_dq);
      const bool wants_scale_grad = Block::weighs_queries && block.params.dq.scale_grad_partials != nullptr;
      const double g_log_total = wants_scale_grad ? total(squares.g_log) : 0;
      const double log_total = wants_scale_grad ? total(squares.log) : 0;
      if (device::thread_index() != 0) return;
      const int chunks = (device::load_shared(&block.rows.keys.length) + Part::chunk - 1) / Part::chunk;
      const double repeated_sums = repeated_sum_error * chunks;
      const double rounded = term_error * term_error * (s_total + v_total) +
                             (chunks * (sum_error * sum_error) + repeated_sums * repeated_sums) * s_total;
      const double error = off_total + rounded, error_along_q = off_total + rounded / P::head_dim.qk;
      const auto within_bound = [](double error_squares, double g, double result) {
        return g >= least_squares && result <= most_squares &&
               error_squares * g <= allowed_error * allowed_error * result;
      };
      bool all_within_bounds = s_total >= least_squares && s_total <= most_squares;
      if (block.params.dq.out.data != nullptr)
        all_within_bounds = all_within_bounds && within_bound(error, g_total, dq_total) &&
                            within_bound(error, unit_g_total, unit_dq_total);
      if (wants_scale_grad)
        all_within_bounds = all_within_bounds && within_bound(error_along_q, g_log_total, log_total);
      device::store_global(block.params.redo_flags + device::block_x(), all_within_bounds ? 0 : 1);
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
