// dk and dv of one bidirectional head in one pass over its keys. Both multiply by the same state, D, the sum
// of q g^T over the whole sequence (recurrence.hpp), which Reduce and Prefix have made for dk:
//
//     dk    out = v D^T, and the norms of k
//     dv    out = k D
//
// A warpgroup makes each. k and v are read once.
#pragma once

#include <cottention/sm90/key_gradient_part.cuh>
#include <cottention/sm90/reduce.cuh>

namespace cottention::sm90 {

/// Blocks: y = M block (the keys that a thread block takes), x as in kernel::RecurrenceParams.
template <AnyProblem P, Tiling tiling>
struct KeyGradientApply {
  static_assert(P::mask == Mask::bidirectional);
  using Block = KeyGradientBlock<P, tiling>;
  using Params = typename Block::Params;
  using Storage = typename Block::Storage;
  using Head = typename Block::Head;
  static constexpr bool needs_sm90a = true;
  static constexpr int threads = Block::threads, min_blocks_per_sm = 1;

  static __device__ __forceinline__ void run(const Params& params, Storage& storage) {
    const Head head(params.dk);
    const int parts = params.dk.m_blocks, m_block = device::block_y();
    const tile::Pieces m_blocks(head.rows.length, {.wanted = parts, .min_rows = 1, .max_pieces = parts},
                                chunk_rows);
    Block::start_scale_grad(storage);
    if (m_block < m_blocks.count) {
      const int first = m_blocks.first(m_block), last = m_blocks.last(m_block, head.rows.length);
      if (device::thread_index() == 0) Block::init(head, first, last, storage);
      if (group_index() == 0) publish_state(params, head, storage);
      typename Block::Weights weights(params.dk, head.batch, head.kv_head, head.keys(), first, last,
                                      storage.counts);
      device::sync_block();  // barriers are initialised, the state is published
      if (group_index() == 0)
        KeyGradientPart<P, tiling, Block::first_output>{params, weights, storage}.walk();
      else
        KeyGradientPart<P, tiling, Block::second_output>{params, weights, storage}.walk();
    }
    Block::store_scale_grad(params, parts, storage);
  }

 private:
  /// Scope: the first warpgroup.
  static __device__ __forceinline__ void publish_state(const Params& params, const Head& head,
                                                       Storage& storage) {
    WholeState<P> d;
    d.for_each_part([&](auto& part) { part.load_partial(head.partial_state(head.pieces.count - 1)); });
    float* const final_h = params.dv.final_h;
    if (device::block_y() == 0 && final_h != nullptr)
      d.for_each_part([&](auto& part) { part.store(final_h + head.state_offset(), params.dk.layout); });
    d.publish(storage.d);
    device::fence_proxy_async();
  }
};

}  // namespace cottention::sm90
