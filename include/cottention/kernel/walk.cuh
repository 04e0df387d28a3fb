// Causal attention of one head, chunk by chunk:
//
//     o_i = norm(q_i) H + sum over j <= i in the chunk of (norm(q_i) . norm(k_j)) w_j v_j
//     H  += sum over j in the chunk of norm(k_j) (w_j v_j)^T
//
// A block walks one piece of a sequence, from the state before it. q and k stay as they are in memory; what
// their norms and the weights change is multiplied into scores and sums.
#pragma once

#include <cottention/kernel/reduce.cuh>

namespace cottention::kernel {

template <AnyProblem P, Tiling tiling>
struct Walk {
  using Part = tile::Partition<P, tiling>;
  using T = typename Part::T;
  using A = typename Part::A;
  static constexpr int threads = Part::threads;
  static constexpr int blocks_per_multiprocessor = tiling.blocks;

  using Params = ForwardParams<T>;
  struct Storage {
    typename Part::RowTile q[Part::stages];
    KeyTiles<Part> kv[Part::stages];
    typename Part::ScoreTile scores;
    Factors<Part> factors;
    tile::PartialOutput<Part> partial;
  };

  static __device__ void run(const Params& params, Storage& storage) {
    const Head<P, tiling> head(params);
    if (head.piece >= head.pieces.count) return;
    ChunkWeights<P, tiling> weights(params, head, storage.factors);
    tile::State<P, tiling> state;
    // The sum up to the piece before; for the first, the initial state that Reduce left with the last.
    if (head.piece > 0 || (params.images != nullptr && params.initial_h != nullptr))
      state.load_image(head.image((head.piece > 0 ? head.piece : head.pieces.count) - 1));
    else
      start_state(head, state);

    const auto copy = [&](const auto& at) {
      if (at.member == 0) copy_keys(head, at.row, storage.kv[at.key_stage]);
      if (head.queries.length > 0)
        tile::copy_rows_async<threads>(head.q(at.member), at.row, 0, P::head_dim.qk, storage.q[at.stage]);
    };
    const auto prepare = [&](const auto& at) {
      if (at.member == 0) weights.begin_chunk(at.row);
    };
    const auto compute = [&](const auto& at) {
      typename Part::RowTile& q = storage.q[at.stage];
      KeyTiles<Part>& kv = storage.kv[at.key_stage];
      if (at.member == 0) weights.measure_keys(kv.k);
      weights.measure_queries(q);
      device::sync_block();  // factors are written, rows of extreme length rescaled

      tile::score<P, tiling>(q, kv.k, storage.factors.query, storage.factors.key, storage.scores);
      typename Part::Output out;
      state.apply(q, out);
      weights.scale_prefix(out);
      const typename Part::Values values = tile::load_values<P, tiling>(kv.v);
      device::sync_block();  // scores are written

      tile::attend<P, tiling>(storage.scores, kv.v, values, out);
      tile::combine<Part>(out, storage.partial);
      store_output(head, at.member, at.row, weights, out);
      if (at.member == head.group - 1) state.absorb(kv.k, values, storage.factors.key, weights.of_state());
    };
    tile::for_each_step<Part::stages, Part::chunk>(head.first, head.last, head.group, copy, prepare, compute);
    if (params.final_h != nullptr && head.piece == head.pieces.count - 1)
      state.store(params.final_h + head.state_offset, head.column);
  }
};

}  // namespace cottention::kernel
