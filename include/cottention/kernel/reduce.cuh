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
  const std::int64_t chunks = (head.last - head.first + Part::chunk - 1) / Part::chunk;
  const auto copy = [&](std::int64_t c) {
    if (c < chunks) copy_keys(head, head.first + c * Part::chunk, storage.kv[c % Part::stages]);
    device::commit_copies();
  };
  for (int ahead = 0; ahead < Part::stages - 1; ++ahead) copy(ahead);

  for (std::int64_t c = 0; c < chunks; ++c) {
    KeyTiles<Part>& kv = storage.kv[c % Part::stages];
    if constexpr (Part::stages == 1) {
      device::sync_block();  // the last chunk's readers are done with the only buffer
      copy(c);
    }
    device::wait_copies<Part::stages == 1 ? 0 : Part::stages - 2>();
    weights.begin_chunk(head.first + c * Part::chunk);
    device::sync_block();  // copies of all threads have landed; readers of the buffer that is filled next are
                           // done
    if constexpr (Part::stages > 1) copy(c + Part::stages - 1);
    weights.measure_keys(kv.k);
    device::sync_block();  // factors are written, rows of extreme length rescaled
    state.absorb(kv.k, tile::load_values<P, tiling>(kv.v), storage.factors.key, weights.of_state());
  }
  device::wait_copies<0>();
}

/// The first piece starts from the caller's initial state, the others from zero.
template <AnyProblem P, Tiling tiling>
__device__ __forceinline__ void start_state(const Head<P, tiling>& head, tile::State<P, tiling>& state) {
  if (head.piece == 0 && head.params.initial_h != nullptr)
    state.load(head.params.initial_h + head.state_offset, head.column);
  else
    state.set_zero();
}

/// Sums each piece apart, into its image. Causal: but for the last, whose sum nobody needs.
template <AnyProblem P, Tiling tiling>
struct Reduce {
  using Part = tile::Partition<P, tiling>;
  static constexpr int threads = Part::threads;
  static constexpr int blocks_per_multiprocessor = tiling.blocks;

  using Params = ForwardParams<typename P::element>;
  using Storage = ReduceStorage<P, tiling>;

  static __device__ void run(const Params& params, Storage& storage) {
    const Head<P, tiling> head(params);
    if (head.piece >= head.pieces.count - (P::mask == Mask::causal ? 1 : 0)) return;
    ChunkWeights<P, tiling> weights(params, head, storage.factors);
    tile::State<P, tiling> state;
    start_state(head, state);
    reduce_piece(head, weights, state, storage);
    state.store_image(head.image(head.piece));
  }
};

}  // namespace cottention::kernel
