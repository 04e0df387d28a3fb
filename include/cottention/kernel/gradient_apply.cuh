// All gradients of one head, bidirectional: dq from S and the sum D of terms q g^T while q and g are read,
// then dk and dv from D while k and v are.
#pragma once

#include <cottention/kernel/joint_block.cuh>

namespace cottention::kernel {

template <AnyProblem P, Tiling tiling>
struct GradientApply {
  using Block = JointBlock<P, tiling>;
  using Part = typename Block::Part;
  using Tile = typename Block::Tile;
  using A = typename Part::A;
  static constexpr int threads = Part::threads;
  static constexpr int blocks_per_multiprocessor = tiling.blocks;

  using Params = GradientParams<P>;
  struct SideTiles {
    Tile x, y;  // q and g, then k and v
  };
  struct ApplyStorage {
    JointStorage<P, tiling> joint;
    SideTiles side[Part::stages];
  };
  union Storage {
    ReduceStorage<typename Block::Roles::Dq, tiling> reduce;
    ApplyStorage apply;
  };

  static __device__ void run(const Params& params, Storage& storage) {
    const typename Block::Queries queries(params.dq);
    const typename Block::Keys keys(params.dk);
    typename Block::State s;
    Block::load_state(params, queries, s, storage.reduce);
    Block block(params, queries, keys, storage.apply.joint);
    walk_queries(block, s, storage.apply);
    device::sync_block();  // tiles of queries are read; their memory is used again
    walk_keys(block, storage.apply);
    block.store_sums();
  }

 private:
  static __device__ __forceinline__ void walk_queries(Block& block, const typename Block::State& s,
                                                      ApplyStorage& storage) {
    const auto copy = [&](const auto& at) {
      SideTiles& to = storage.side[at.stage];
      block.copy_queries(at.member, at.row, to.x, to.y);
    };
    const auto compute = [&](const auto& at) {
      Tile &q = storage.side[at.stage].x, &g = storage.side[at.stage].y;
      const GradientFactors<Part>& factors = storage.joint.factors;
      block.measure_queries(q, g);
      device::sync_block();  // factors are written, rows of extreme length rescaled
      typename Part::Output out;
      s.apply(g, out);
      tile::scale_rows<Part>(out, factors.g, A{1});
      tile::scale_rows<Part>(out, factors.dq, A{1});
      block.store_dq(at.member, at.row, q, out);
      const int exponent = block.query_exponent();
      block.d_by_v.absorb(g, Block::load(q), factors.query_term, exponent, block.query_weight());
      block.d_by_q.absorb(q, Block::load(g), factors.query_term, exponent, block.query_weight());
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
      const GradientFactors<Part>& factors = storage.joint.factors;
      block.measure_keys(k, v);
      device::sync_block();  // factors are written, rows of extreme length rescaled
      typename Part::Output out;
      block.d_by_v.apply(v, out);
      tile::scale_rows<Part>(out, factors.v, A{1});
      tile::scale_rows<Part>(out, factors.dk, A{1});
      block.store_dk(at.row, k, out);
      block.d_by_q.apply(k, out);
      tile::scale_rows<Part>(out, storage.joint.k.unit, A{1});
      tile::scale_rows<Part>(out, factors.dv, A{1});
      block.store_dv(at.row, out);
    };
    for_each_chunk(block.keys.rows.length, 1, copy, compute);
  }

  template <class Copy, class Compute>
  static __device__ __forceinline__ void for_each_chunk(int length, int members, Copy copy, Compute compute) {
    tile::for_each_step<Part::stages, Part::chunk, tile::Direction::forward>(
        0, length, members, copy, [](const auto&) {}, compute);
  }
};

}  // namespace cottention::kernel
