// Bidirectional attention of one head: o_i = norm(q_i) H with H the sum over the whole sequence.
#pragma once

#include <cottention/kernel/reduce.cuh>

namespace cottention::kernel {

/// Where the sum comes from: the images that Reduce and Prefix left, or the block itself, which then has the
/// sequence to itself.
enum class Sum { from_images, own };

/// Blocks: y = part of the queries, x and z as in ForwardParams.
template <AnyProblem P, Tiling tiling, Sum sum>
struct Apply {
  using Part = tile::Partition<P, tiling>;
  using T = typename Part::T;
  using A = typename Part::A;
  static constexpr int threads = Part::threads;
  static constexpr int blocks_per_multiprocessor = tiling.blocks;

  using Params = ForwardParams<T>;
  struct QueryStorage {
    typename Part::RowTile q[Part::stages];
    tile::PartialOutput<Part> partial;
    Factors<Part> factors;
  };
  union Storage {
    ReduceStorage<P, tiling> reduce;
    QueryStorage apply;
  };

  static __device__ void run(const Params& params, Storage& storage) {
    Head<P, tiling> head(params);
    const int query_part = head.piece;
    tile::State<P, tiling> state;
    if constexpr (sum == Sum::own) {
      ChunkWeights<P, tiling> weights(params, head, storage.reduce.factors);
      start_state(head, state);
      reduce_piece(head, weights, state, storage.reduce);
      device::sync_block();  // tiles of keys are read; their memory is used again
    } else {
      state.load_image(head.image(head.pieces.count - 1));
    }
    if (params.final_h != nullptr && query_part == 0)
      state.store(params.final_h + head.state_offset, head.column);
    ChunkWeights<P, tiling> weights(params, head, storage.apply.factors);
    const Pieces parts(head.queries.length, params.query_parts, 1, Part::chunk);
    if (query_part < parts.count)
      answer(head, weights, state, parts.first(query_part), parts.last(query_part, head.queries.length),
             storage.apply);
  }

 private:
  static __device__ __forceinline__ void answer(const Head<P, tiling>& head, ChunkWeights<P, tiling>& weights,
                                                const tile::State<P, tiling>& state, int first, int last,
                                                QueryStorage& storage) {
    const auto copy = [&](const auto& at) {
      tile::copy_rows_async<threads>(head.q(at.member), at.row, 0, P::head_dim.qk, storage.q[at.stage]);
    };
    const auto compute = [&](const auto& at) {
      typename Part::RowTile& q = storage.q[at.stage];
      weights.measure_queries(q);
      device::sync_block();  // factors are written, rows of extreme length rescaled
      typename Part::Output out;
      state.apply(q, out);
      tile::combine<Part>(out, storage.partial);
      weights.scale_answer(out);
      store_output(head, at.member, at.row, weights, out);
    };
    tile::for_each_step<Part::stages, Part::chunk>(
        first, last, head.group, copy, [](const auto&) {}, compute);
  }
};

}  // namespace cottention::kernel
