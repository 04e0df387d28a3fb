// The sum of a piece of a sequence, H = sum over j of norm(k_j) (w_j v_j)^T, with nothing read but k and v.
#pragma once

#include <cottention/kernel/head.cuh>
#include <cottention/tile/chunk.cuh>

namespace cottention::kernel {

/// The shared memory of reduce_piece().
template <AnyProblem P, Tiling tiling>
struct ReduceStorage {
  using Part = tile::Partition<P, tiling>;
  KeyTiles<Part> kv[Part::stages];
  Factors<Part> factors;
};

/// Adds the block's piece to `state`. Ends with no copy in flight.
template <AnyProblem P, Tiling tiling>
__device__ __forceinline__ void reduce_piece(const Head<P, tiling>& head, ChunkWeights<P, tiling>& weights,
                                             tile::State<P, tiling>& state,
                                             ReduceStorage<P, tiling>& storage) {
  using Part = tile::Partition<P, tiling>;
  const auto copy = [&](const auto& at) { copy_keys(head, at.row, storage.kv[at.key_stage]); };
  const auto prepare = [&](const auto& at) { weights.begin_chunk(at.row); };
  const auto compute = [&](const auto& at) {
    KeyTiles<Part>& kv = storage.kv[at.key_stage];
    weights.measure_keys(kv.k);
    device::sync_block();  // factors are written, rows of extreme length rescaled
    state.absorb(kv.k, tile::load_values<P, tiling>(kv.v), storage.factors.key, weights.of_state());
  };
  tile::for_each_step<Part::stages, Part::chunk>(head.first, head.last, 1, copy, prepare, compute);
}

/// The first piece starts from the caller's initial state, the others from zero.
template <AnyProblem P, Tiling tiling>
__device__ __forceinline__ void start_state(const Head<P, tiling>& head, tile::State<P, tiling>& state) {
  if (head.piece == 0 && head.params.initial_h != nullptr)
    state.load(head.params.initial_h + head.state_offset, head.column);
  else
    state.set_zero();
}

/// Sums each piece apart, into its image. Causal: but for the last, whose sum nobody needs. Its image gets a
/// copy of the caller's initial state, for the first piece of Walk: there the last piece writes the final
/// state, maybe to the same memory, and blocks run in any order.
template <AnyProblem P, Tiling tiling>
struct Reduce {
  using Part = tile::Partition<P, tiling>;
  static constexpr int threads = Part::threads;
  static constexpr int blocks_per_multiprocessor = tiling.blocks;

  using Params = ForwardParams<typename P::element>;
  using Storage = ReduceStorage<P, tiling>;

  static __device__ void run(const Params& params, Storage& storage) {
    const Head<P, tiling> head(params);
    if (head.piece >= head.pieces.count) return;
    tile::State<P, tiling> state;
    if (P::mask == Mask::causal && head.piece == head.pieces.count - 1) {
      if (params.initial_h == nullptr) return;
      state.load(params.initial_h + head.state_offset, head.column);
    } else {
      ChunkWeights<P, tiling> weights(params, head, storage.factors);
      start_state(head, state);
      reduce_piece(head, weights, state, storage);
    }
    state.store_image(head.image(head.piece));
  }
};

}  // namespace cottention::kernel
