// All gradients of one causal head in one pass over its chunks, in reverse: sm80/gradient.cuh has the
// formulas, and why dq may have to be made again. Warpgroups have a part each:
//
//     dq       scores g v^T, out = scores k + g S^T, and the norms of q
//     dk       scores v g^T, out = scores q + v D^T, and the norms of k
//     dv       scores k q^T, out = scores g + k D
//     states   S, the sum of k v^T ahead, and D, the sum of q g^T behind
//
// S loses the very products that a forward call on this engine added, in the order of its chunks, so that
// nothing but roundings of fp32 sums is left in it.
#pragma once

#include <cottention/sm90/gradient_part.cuh>
#include <cottention/sm90/registers.cuh>

namespace cottention::sm90 {

template <AnyProblem P, Tiling tiling>
struct Gradient {
  static_assert(has_fused_backward<P>);
  using Block = GradientBlock<P, tiling>;
  using T = typename Block::T;
  using Output = recurrence::Output;
  using Params = typename Block::Params;
  using Storage = typename Block::Storage;
  using Position = typename Block::Position;
  using State = typename Block::State;
  static constexpr bool needs_sm90a = true;
  static constexpr int threads = Block::threads, min_blocks_per_sm = 1;
  template <Output output>
  using Part = GradientPart<P, tiling, output>;

  static __device__ __forceinline__ void run(const Params& params, Storage& storage) {
    const typename Block::Head head(params.dq);
    if (device::thread_index() == 0) Block::init(head, storage);
    Block::template find_leading<recurrence::Direction::forward>(0, head.terms, storage.leading_keys_end);
    Block::template find_leading<recurrence::Direction::reverse>(1, head.rows, storage.leading_queries_end);
    typename Block::Weights weights(params.dq, head.batch, head.kv_head, head.keys(), 0, head.last,
                                    storage.counts);
    storage.dq_error.set_zero();
    device::store_shared(storage.scale_grad + device::thread_index(), 0.0);
    device::sync_block();  // barriers are initialised
    float off = 0;         // of S from the initial state
    const int part = group_index();
    if (part == 0) {
      set_registers<Shares::first, Shares::average>();
      Part<Block::first_output>{params, weights, storage}.walk();
    } else if (part == 1) {
      set_registers<Shares::second, Shares::average>();
      Part<Block::second_output>{params, weights, storage}.walk();
    } else if (part == 2) {
      set_registers<Shares::dv, Shares::average>();
      Part<Output::dv>{params, weights, storage}.walk();
    } else {
      set_registers<Shares::states, Shares::average>();
      off = walk_states(params, storage);
    }
    device::sync_block();  // what weights need is used again
    finish_head(params, storage, off);
  }

 private:
  /// Registers of a thread, by warpgroup: 512 in all.
  struct Shares {
    static constexpr int average = 128, first = 128, second = 120, dv = 120, states = 144;
  };

  /// Returns the thread's part of the squared distance that S, with all chunks subtracted, is off the initial
  /// state. Scope: the last warpgroup.
  static __device__ __forceinline__ float walk_states(const Params& params, Storage& storage) {
    State s(0), d(0);
    s.load(params.final_h + Block::state_offset(), recurrence::StateLayout::as_is);
    if (params.dk.initial_h != nullptr)
      d.load(params.dk.initial_h + Block::state_offset(), recurrence::StateLayout::transposed);
    else
      d.set_zero();
    storage.dq_error.observe_state(s.squares());
    const auto publish = [&](State& state, typename Block::PublishedState& to, Ring<1>& barriers,
                             const Position& at) {
      barriers.wait_empty(at.state());
      state.publish(to);
      device::fence_proxy_async();
      barriers.arrive_full(at.state());
    };
#pragma unroll 1
    for (Position at; Block::within(storage, at); at.advance(params.dq.row_group)) {
      if (at.group_head == 0) {
        publish(d, storage.d, storage.d_barriers, at);
        storage.keys.wait_measured(at.keys());
        typename Block::Pair& keys = storage.keys.at(at.keys());
        s.template absorb<Block::bounds_factors, Change::subtract>(keys.x, keys.y, keys.terms);
        storage.keys.barriers.arrive_empty(at.keys());
        publish(s, storage.s, storage.s_barriers, at);
        storage.dq_error.observe_state(s.squares());
      }
      storage.queries.wait_measured(at.queries(params.dq.row_group));
      typename Block::Pair& queries = storage.queries.at(at.queries(params.dq.row_group));
      d.template absorb<Block::bounds_factors>(queries.y, queries.x, queries.terms);
      storage.queries.barriers.arrive_empty(at.queries(params.dq.row_group));
    }
    if (params.dv.final_h != nullptr)
      d.store(params.dv.final_h + Block::state_offset(), recurrence::StateLayout::transposed);
    const float* initial = params.dq.initial_h;
    return s.squared_distance(initial == nullptr ? nullptr : initial + Block::state_offset(),
                              recurrence::StateLayout::as_is);
  }

  /// Writes what is left at the end of a head, and whether its dq is to be made again. Scope: block; barriers
  /// inside: those of ErrorBound::exceeds(), and 2.
  static __device__ __forceinline__ void finish_head(const Params& params, Storage& storage, float off) {
    double* const partials = (Block::weighs_queries ? params.dq : params.dk).scale_grad_partials;
    if (partials != nullptr)
      kernel::store_scale_grad(
          partials, 1, device::load_shared(storage.scale_grad + device::opaque(device::thread_index())),
          storage.counts.sum);
    const bool exceeds =
        storage.dq_error.exceeds(off, device::load_shared(&storage.chunks), params.dq.out.data != nullptr,
                                 Block::weighs_queries && partials != nullptr, storage.counts.sum);
    if (device::thread_index() == 0)
      device::store_global(params.redo_flags + device::block_x(), exceeds ? 1 : 0);
  }
};

}  // namespace cottention::sm90
