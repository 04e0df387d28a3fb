// All gradients of one causal head, in one pass over its chunks.
//
// The walk runs in reverse, as dk and dv need it, with the sum D of terms q g^T behind it. dq needs S, the
// sum of k v^T ahead of it. S does not decay, so the walk has it by downdating: S starts from the final
// state, and each chunk subtracts its own terms. kernel/dq_error_bound.cuh bounds what rounding leaves of
// that in dq; where it could be seen, the head's redo flag is set, and Walk computes its dq again from an S
// that is summed from the start.
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

  using Params = kernel::GradientParams<P>;
  struct ChunkTiles {
    Tile q, k, v, g;  // (chunk, dim)
  };
  struct WalkStorage {
    FusedBackwardStorage<P, tiling> fused;
    ChunkTiles chunk[Part::stages];
    typename Part::ScoreTile scores[3];  // (chunk, chunk), of dq, dk and dv
  };
  /// The chunks that few keys come before, and those that few queries come after.
  struct Leading {
    tile::LeadingChunks<Part::chunk, recurrence::Direction::forward> keys;
    tile::LeadingChunks<Part::chunk, recurrence::Direction::reverse> queries;

    /// Scope: block, before a barrier; barriers inside: 0.
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
    sm80::for_each_step<Part::stages, Part::chunk, recurrence::Direction::reverse>(0, keys.last, 1, copy,
                                                                                   prepare, compute);
    block.store_d();
    block.store_scale_grad_partials();
    steps.set_redo_flag();
  }

 private:
  using Output = recurrence::Output;
  using Recurrence = typename Block::Roles::Recurrence;
  template <Output output>
  using Intra = IntraChunk<kernel::Roles<P, output>, tiling, Block::scales_rows>;

  struct Steps {
    Block& block;
    typename Block::State& s;  // (dim, dim): S before the chunks that have been walked
    const Leading& leading;
    WalkStorage& storage;

    /// The step of a chunk: measure, downdate S, output, update D. Scope: block; barriers inside: 4, 5 where
    /// warps split rows, and 2 for each output of a leading chunk.
    __device__ __forceinline__ void step(int row, ChunkTiles& chunk) {
      block.weights.enter_chunk();
      block.measure_queries(chunk.q, chunk.g);
      block.measure_keys(chunk.k, chunk.v);
      device::sync_block();  // factors are written, rows of extreme norm rescaled
      block.observe_rows();
      const auto& [of_queries, of_keys, of_dv] = storage.fused.factors;
      const int key_exponent = block.key_exponent(), query_exponent = block.query_exponent();
      const A key_weight = block.key_weight(), query_weight = block.query_weight();
      const A over_query_weight = device::div_rn(A{1}, query_weight);
      const A* const of_k = storage.fused.k.rnorm;
      const Intra<Output::dq> dq{chunk.g,           chunk.v,      chunk.k,
                                 of_queries.rows.a, of_keys.term, storage.scores[0]};
      const Intra<Output::dk> dk{chunk.v,        chunk.g,         chunk.q,
                                 of_keys.rows.a, of_queries.term, storage.scores[1]};
      const Intra<Output::dv> dv{chunk.k, chunk.q, chunk.g, of_k, of_queries.term, storage.scores[2]};
      constexpr int blocks = Part::row_blocks * (Part::row_blocks + 1) / 2;
      dq.score(0);
      dk.score(blocks);
      dv.score(2 * blocks);

      SharedState<Recurrence, tiling>& operand = storage.fused.state;
      typename Part::Output out;  // (chunk, dim)
      {
        const typename Part::Values k = Block::load(chunk.k);
        s.absorb(chunk.v, k, of_keys.term, key_exponent, -key_weight);
        observe_state();
        // Where warps split rows, S and D take turns in shared memory; otherwise S is an operand in
        // registers.
        operand.publish(Part::splits_m ? s : block.d);
        device::sync_block();  // scores and state are written
        const A over_key_weight = device::div_rn(A{1}, key_weight);
        if constexpr (Part::splits_m) {
          output<Output::dq>(operand, row, dq, k, chunk.q, key_weight, over_key_weight, out);
          operand.publish(block.d);  // all warps were done with S at the barrier of dq's epilogue
          device::sync_block();      // D is written
        } else {
          output<Output::dq>(s, row, dq, k, chunk.q, key_weight, over_key_weight, out);
        }
      }
      output<Output::dk>(operand, row, dk, Block::load(chunk.q), chunk.k, query_weight, over_query_weight,
                         out);
      const typename Part::Values g = Block::load(chunk.g);
      output<Output::dv>(operand, row, dv, g, chunk.k, query_weight, over_query_weight, out);
      block.d.absorb(chunk.q, g, of_queries.term, query_exponent, query_weight);
    }

    /// Computes and stores one output of the chunk. state: S or D as an operand; c: (chunk, dim); x: q or k.
    /// Scope: block; barriers inside: 1, none for dv; 2 more in a leading chunk.
    template <Output output_, class StateOperand>
    __device__ __forceinline__ void output(const StateOperand& state, int row, const Intra<output_>& intra,
                                           const typename Part::Values& c, const Tile& x, A weight,
                                           A over_weight, typename Part::Output& out) {
      block.template inter_chunk<output_>(state, intra.a, out, over_weight);
      const auto leading_chunks = [&] {
        using Chunks = tile::LeadingChunks<Part::chunk, kernel::Roles<P, output_>::direction>;
        return Chunks{device::load_shared(output_ == Output::dq ? &leading.keys.end : &leading.queries.end)};
      };
      intra.attend(c, block.template c_is_finite<output_>(), row, leading_chunks, out);
      block.template scale<output_>(out, weight);
      if constexpr (output_ == Output::dq) observe_dq<false>(out);
      block.template store<output_>(0, row, x, out);
      if constexpr (output_ == Output::dq) observe_dq<true>(out);
    }

    // ---- what the error bound of dq follows from

    __device__ __forceinline__ void observe_state() { storage.fused.dq_error.observe_state(s.squares()); }
    template <bool after_norm>
    __device__ __forceinline__ void observe_dq(typename Part::Output& out) {
      storage.fused.dq_error.template observe_dq<after_norm>(
          [&out](auto f) { sm80::for_each_sum<Part>(out, [&f](A& x, int, int) { f(x); }); });
    }

    /// Has the head's dq computed by Walk unless its error is within bounds. Scope: block; barriers
    /// inside: 14, or 18 with the gradient of m by query.
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
};

}  // namespace cottention::sm80
