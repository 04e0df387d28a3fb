// dk and dv of one causal head in one pass over its chunks, in reverse. Both are recurrences over the same
// state, D, the sum of q g^T behind a chunk (recurrence.hpp). Warpgroups have a part each:
//
//     dk       scores v g^T, out = scores q + v D^T, and the norms of k
//     dv       scores k q^T, out = scores g + k D, and the norms of q
//     state    D: publishes it before the chunk, adds the chunk
//
// q, k, v and g are read once. A block walks one piece of a sequence, from the state behind it, which is that
// of dk's recurrence.
#pragma once

#include <concepts>

#include <cottention/sm90/key_gradient_part.cuh>
#include <cottention/sm90/reduce.cuh>
#include <cottention/sm90/registers.cuh>

namespace cottention::sm90 {

template <AnyProblem P, Tiling tiling>
struct KeyGradients {
  static_assert(P::mask == Mask::causal);
  using Block = KeyGradientBlock<P, tiling>;
  using T = typename Block::T;
  using Output = recurrence::Output;
  using Params = typename Block::Params;
  using Storage = typename Block::Storage;
  using Position = typename Block::Position;
  using Head = typename Block::Head;
  using Weights = typename Block::Weights;
  static constexpr bool needs_sm90a = true;
  static constexpr int threads = Block::threads, min_blocks_per_sm = 1;
  template <Output output>
  using Part = KeyGradientPart<P, tiling, output>;

  static __device__ __forceinline__ void run(const Params& params, Storage& storage) {
    const Head head(params.dk);
    // A sequence may have fewer pieces than another of its batch.
    if (head.order < head.pieces.count) {
      if (device::thread_index() == 0) Block::init(head, head.first, head.last, storage);
      find_leading(head, storage);
      const int part = group_index();
      if (part == 0) {
        set_registers<Shares::first, Shares::average>();
        walk_until_right(params, storage, [&](Weights& weights, const Head&) {
          Part<Block::first_output>{params, weights, storage}.walk();
        });
      } else if (part == 1) {
        set_registers<Shares::second, Shares::average>();
        walk_until_right(params, storage, [&](Weights& weights, const Head&) {
          Part<Block::second_output>{params, weights, storage}.walk();
        });
      } else {
        set_registers<Shares::state, Shares::average>();
        walk_until_right(params, storage,
                         [&](Weights&, const Head& own) { walk_state(params, own, storage); });
      }
    } else {
      Block::start_scale_grad(storage);
    }
    Block::store_scale_grad(params, params.dk.split_rule.max_pieces, storage);
  }

 private:
  /// Registers of a thread, by warpgroup: 504 in all. In half a state of panels of 64 and 48 columns takes
  /// more.
  struct Shares {
    static constexpr bool moves = std::same_as<T, half> && P::head_dim.v == 112;
    static constexpr int average = 168, dk = Block::rounds_state ? 152 : 144,
                         dv = Block::rounds_state || moves ? 144 : 152, state = moves ? 216 : 208;
    static constexpr int first = Block::first_output == Output::dk ? dk : dv, second = dk + dv - first;
  };

  /// Scope: block, before a barrier.
  static __device__ __forceinline__ void find_leading(const Head& head, Storage& storage) {
    if (device::warp_index() != 0) return;
    const auto found = tile::LeadingChunks<chunk_rows, recurrence::Direction::reverse>::find(
        head.terms.mask, head.first, head.last, head.terms.length);
    if (lane_index() == 0) device::store_shared(&storage.leading_end, found.end);
  }

  /// Walks once, and where D is rounded and that does not do, again: walk(weights, head) is the warpgroup's
  /// part.
  /// Scope: block.
  template <class Walk>
  static __device__ __forceinline__ void walk_until_right(const Params& params, Storage& storage, Walk walk) {
    bool again;
#pragma unroll 1
    do {
      // Again: lanes have no registers for it.
      const Head head(params.dk, device::opaque(device::block_x()));
      Block::start_scale_grad(storage);
      if (Block::rounds_state && thread_index() < 256) storage.rounding.set_zero();
      Weights weights(params.dk, head.batch, head.kv_head, head.keys(), head.first, head.last,
                      storage.counts);
      device::sync_block();  // barriers are initialised
      walk(weights, head);
      again = false;
      if constexpr (Block::rounds_state) {
        if (!device::load_shared(&storage.is_rounded)) return;
        again = !storage.rounding.are_within(storage.counts.sum);
        if (again && thread_index() == 0) Block::start_again(storage);
        device::sync_block();
      }
    } while (again);
  }

  /// Scope: the last warpgroup, which has all rows of D.
  static __device__ __forceinline__ void walk_state(const Params& params, const Head& head,
                                                    Storage& storage) {
    WholeState<P> d;
    d.for_each_part([&](auto& part) { start_walk(head, part); });
#pragma unroll 1
    for (Position at{device::load_shared(&storage.first_chunk)}; Block::within(storage, at);
         at.advance(params.dk.term_group)) {
      if (at.group_head == 0) {
        storage.d_barriers.wait_empty(at.state());
        publish(d, storage);
        device::fence_proxy_async();
        storage.d_barriers.arrive_full(at.state());
      }
      const auto place = at.queries(params.dk.term_group);
      storage.queries.wait_measured(place);
      typename Block::Pair& queries = storage.queries.at(place);
      d.for_each_part([&](auto& part) {
        part.template absorb<Block::bounds_factors>(queries.y, queries.x, queries.terms);
      });
      storage.queries.barriers.arrive_empty(place);
    }
    float* const final_h = params.dv.final_h;
    if (device::load_shared(&storage.is_last) && final_h != nullptr)
      d.for_each_part([&](auto& part) { part.store(final_h + head.state_offset(), params.dk.layout); });
  }
  static __device__ __forceinline__ void publish(WholeState<P>& d, Storage& storage) {
    if constexpr (Block::rounds_state) {
      storage.rounding.set_state(d.squares());
      if (device::load_shared(&storage.is_rounded)) {
        d.publish_rounded(storage.d);
        return;
      }
    }
    d.publish(storage.d);
  }
};

}  // namespace cottention::sm90
