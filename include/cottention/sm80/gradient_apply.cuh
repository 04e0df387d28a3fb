// All gradients of one head, bidirectional: dq from S and the sum D of terms q g^T while q and g are read,
// then dk and dv from D while k and v are.
#pragma once

#include <cottention/sm80/fused_backward.cuh>

namespace cottention::sm80 {

template <AnyProblem P, Tiling tiling>
struct GradientApply {
  using Block = FusedBackwardBlock<P, tiling>;
  using Part = typename Block::Part;
  using Tile = typename Block::Tile;
  using A = typename Part::A;
  static constexpr int threads = Part::threads;
  static constexpr int min_blocks_per_sm = tiling.min_blocks_per_sm;

  using Params = GradientParams<P>;
  struct SideTiles {
    Tile x, y;  // q and g, then k and v
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
  static __device__ __forceinline__ void walk_queries(Block& block, ApplyStorage& storage) {
    const auto copy = [&](const auto& at) {
      SideTiles& to = storage.side[at.stage];
      block.copy_queries(at.group_head, at.row, to.x, to.y);
    };
    const auto compute = [&](const auto& at) {
      Tile &q = storage.side[at.stage].x, &g = storage.side[at.stage].y;
      const GradientFactors<Part>& factors = storage.fused.factors;
      block.measure_queries(q, g);
      device::sync_block();  // factors are written, rows of extreme length rescaled
      typename Part::Output out;
      storage.fused.state.apply(g, out);
      block.scale_prefix(out, factors.g);
      block.scale_dq(out, A{1});
      block.store_dq(at.group_head, at.row, q, out);
      const int exponent = block.query_exponent();
      block.d.absorb(q, Block::load(g), factors.query_term, exponent, block.query_weight());
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
      const GradientFactors<Part>& factors = storage.fused.factors;
      block.measure_keys(k, v);
      device::sync_block();  // factors are written, rows of extreme length rescaled
      typename Part::Output out;
      storage.fused.state.apply_transposed(v, out);
      block.scale_prefix(out, factors.v);
      block.scale_dk(out, A{1});
      block.store_dk(at.row, k, out);
      storage.fused.state.apply(k, out);
      block.scale_prefix(out, storage.fused.k.rnorm);
      block.scale_dv(out, A{1});
      block.store_dv(at.row, out);
    };
    for_each_chunk(block.keys.rows.length, 1, copy, compute);
  }

  template <class Copy, class Compute>
  static __device__ __forceinline__ void for_each_chunk(int length, int group_heads, Copy copy,
                                                        Compute compute) {
    sm80::for_each_step<Part::stages, Part::chunk, tile::Direction::forward>(
        0, length, group_heads, copy, [](const auto&) {}, compute);
  }
};

}  // namespace cottention::sm80
