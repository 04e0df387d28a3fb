// All gradients of one bidirectional head. A first pass over q and g computes dq from S, and sums D, the
// terms q g^T; a second pass over k and v computes dk and dv from D.
#pragma once

#include <cottention/sm80/fused_backward.cuh>

namespace cottention::sm80 {

template <AnyProblem P, Tiling tiling>
struct GradientApply {
  using Block = FusedBackwardBlock<P, tiling>;
  using Part = typename Block::Part;
  using Tile = typename Block::Tile;
  static constexpr int threads = Part::threads;
  static constexpr int min_blocks_per_sm = tiling.min_blocks_per_sm;

  using Params = kernel::GradientParams<P>;
  struct SideTiles {
    Tile x, y;  // (chunk, dim): q and g, then k and v
  };
  struct ApplyStorage {
    FusedBackwardStorage<P, tiling> fused;
    SideTiles side[Part::stages];
  };
  struct Storage {
    FusedBackwardRows<P, tiling> rows;
    union {
      ReduceStorage<typename Block::Roles::Dq, tiling> reduce;
      ApplyStorage apply;
    };
  };

  static __device__ __forceinline__ void run(const Params& params, Storage& storage) {
    const typename Block::Queries queries(params.dq);
    typename Block::State s;
    Block::load_state(params, queries, s, storage.reduce);
    const typename Block::Keys keys(params.dk);
    if (device::thread_index() == 0) storage.rows.set(params, queries, keys);
    storage.apply.fused.state.publish(s);
    Block block(params, queries, keys, storage.rows, storage.apply.fused);
    walk_queries(block, storage.apply);
    device::sync_block();  // S and tiles of queries are read; their memory is used again
    storage.apply.fused.state.publish(block.d);
    block.store_d();
    walk_keys(block, storage.apply);
    block.store_scale_grad_partials();
  }

 private:
  using Output = recurrence::Output;

  static __device__ __forceinline__ void walk_queries(Block& block, ApplyStorage& storage) {
    const auto copy = [&](const auto& at) {
      SideTiles& to = storage.side[at.stage];
      block.copy_queries(at.group_head, at.row, to.x, to.y);
    };
    const auto compute = [&](const auto& at) {
      Tile &q = storage.side[at.stage].x, &g = storage.side[at.stage].y;
      block.measure_queries(q, g);
      device::sync_block();  // factors are written, rows of extreme norm rescaled
      output<Output::dq>(block, storage, at.group_head, at.row, g, q);
      const int exponent = block.query_exponent();
      block.d.absorb(q, Block::load(g), storage.fused.factors.queries.term, exponent, block.query_weight());
    };
    for_each_chunk(block.queries.rows.length, block.queries.group, copy, compute);
  }

  static __device__ __forceinline__ void walk_keys(Block& block, ApplyStorage& storage) {
    const auto copy = [&](const auto& at) {
      SideTiles& to = storage.side[at.stage];
      block.copy_keys(at.row, to.x, to.y);
    };
    const auto compute = [&](const auto& at) {
      Tile &k = storage.side[at.stage].x, &v = storage.side[at.stage].y;
      block.measure_keys(k, v);
      device::sync_block();  // factors are written, rows of extreme norm rescaled
      output<Output::dk>(block, storage, 0, at.row, v, k);
      output<Output::dv>(block, storage, 0, at.row, k, k);
    };
    for_each_chunk(block.keys.rows.length, 1, copy, compute);
  }

  /// One output of a chunk. a: (chunk, dim); x: q or k. Scope: block; barriers inside: 1, none for dv.
  template <Output output_>
  static __device__ __forceinline__ void output(Block& block, ApplyStorage& storage, int group_head, int row,
                                                const Tile& a, const Tile& x) {
    typename Part::Output out;  // (chunk, dim)
    block.template inter_chunk<output_>(storage.fused.state, a, out);
    block.template scale<output_>(out);
    block.template store<output_>(group_head, row, x, out);
  }

  template <class Copy, class Compute>
  static __device__ __forceinline__ void for_each_chunk(int length, int group_heads, Copy copy,
                                                        Compute compute) {
    sm80::for_each_step<Part::stages, Part::chunk, recurrence::Direction::forward>(
        0, length, group_heads, copy, [](const auto&) {}, compute);
  }
};

}  // namespace cottention::sm80
