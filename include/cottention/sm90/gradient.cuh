// All gradients of one causal head, or of a piece of it, in one pass over its chunks, in reverse:
// sm80/gradient.cuh has the formulas, and why dq may have to be made again. Warpgroups have a part each:
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
    if (head.order >= head.pieces.count) {  // a sequence may have fewer pieces than another of its batch
      if (device::thread_index() == 0) write(params, 0, false);
      return;
    }
    if (device::thread_index() == 0) Block::init(head, storage);
    Block::template find_leading<recurrence::Direction::forward>(0, head, head.terms,
                                                                 storage.leading_keys_end);
    Block::template find_leading<recurrence::Direction::reverse>(1, head, head.rows,
                                                                 storage.leading_queries_end);
    typename Block::Weights weights(params.dq, head.batch, head.kv_head, head.keys(), 0, head.last,
                                    storage.counts);
    storage.dq_error.set_zero();
    device::store_shared(storage.scale_grad + device::opaque(device::thread_index()), 0.0);
    device::sync_block();  // barriers are initialised
    float off = 0;         // of S from what it is before the piece
    const int part = group_index();
    if (part == 0) {
      set_registers<Shares::output, Shares::average>();
      Part<Block::first_output>{params, weights, storage}.walk();
    } else if (part == 1) {
      set_registers<Shares::output, Shares::average>();
      Part<Block::second_output>{params, weights, storage}.walk();
    } else if (part == 2) {
      set_registers<Shares::output, Shares::average>();
      Part<Block::third_output>{params, weights, storage}.walk();
    } else {
      set_registers<Shares::states, Shares::average>();
      off = walk_states(params, storage);
    }
    device::sync_block();  // what weights need is used again
    finish_piece(params, storage, off);
  }

 private:
  /// Registers of a thread, by warpgroup: 512 in all.
  struct Shares {
    static constexpr int average = 128, output = 120, states = 4 * average - 3 * output;
  };

  /// Loads S after the piece and D behind it. Scope: the last warpgroup.
  static __device__ __forceinline__ void start_states(const Params& params, const Storage& storage, State& s,
                                                      State& d) {
    const int pieces = device::load_shared(&storage.pieces), order = device::load_shared(&storage.order);
    const int behind = pieces - 1 - order;  // pieces
    if (behind == 0 && params.final_h != nullptr)
      s.load(params.final_h + Block::state_offset(), recurrence::StateLayout::as_is);
    else
      s.load_partial(kernel::partial_state_of(params.dq, 0, order));
    // The partial states of dk are in the order of its walk, a copy of the caller's state for the last one:
    // start_walk() of reduce.cuh says why.
    if (behind > 0 || (params.dk.partial_states != nullptr && params.dk.initial_h != nullptr))
      d.load_partial(kernel::partial_state_of(params.dk, 0, (behind > 0 ? behind : pieces) - 1));
    else if (params.dk.initial_h != nullptr)
      d.load(params.dk.initial_h + Block::state_offset(), recurrence::StateLayout::transposed);
    else
      d.set_zero();
  }

  /// Returns the thread's part of the squared distance that S, with all chunks subtracted, is off what it is
  /// before the piece. Scope: the last warpgroup.
  static __device__ __forceinline__ float walk_states(const Params& params, Storage& storage) {
    State s(0), d(0);
    start_states(params, storage, s, d);
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
    const int order = device::load_shared(&storage.order);
    if (order > 0) return s.squared_distance_from_partial(kernel::partial_state_of(params.dq, 0, order - 1));
    if (params.dv.final_h != nullptr)
      d.store(params.dv.final_h + Block::state_offset(), recurrence::StateLayout::transposed);
    const float* initial = params.dq.initial_h;
    return s.squared_distance(initial == nullptr ? nullptr : initial + Block::state_offset(),
                              recurrence::StateLayout::as_is);
  }

  /// Writes what is left at the end of a piece, and whether its dq is to be made again. Scope: block;
  /// barriers inside: those of ErrorBound::exceeds(), and 2.
  static __device__ __forceinline__ void finish_piece(const Params& params, Storage& storage, float off) {
    double scale_grad = 0;
    if (scale_grad_partials(params) != nullptr) {
      device::sync_block();  // earlier readers of the storage are done
      scale_grad = device::sum_over_block<threads>(
          device::load_shared(storage.scale_grad + device::opaque(device::thread_index())),
          storage.counts.sum);
    }
    // The sum of a piece alone starts from zero and may be up to twice the largest S; its roundings and those
    // of S together are less than those of three times the chunks.
    const int chunks =
        device::load_shared(&storage.chunks) * (device::load_shared(&storage.pieces) > 1 ? 3 : 1);
    const bool exceeds = storage.dq_error.exceeds(
        off, chunks, params.dq.out.data != nullptr,
        Block::weighs_queries && scale_grad_partials(params) != nullptr, storage.counts.sum);
    if (device::thread_index() == 0) write(params, scale_grad, exceeds);
  }

  static __device__ __forceinline__ double* scale_grad_partials(const Params& params) {
    return (Block::weighs_queries ? params.dq : params.dk).scale_grad_partials;
  }
  /// Writes the piece's part of the gradient of scale_logit and its redo flag. Scope: one thread.
  static __device__ __forceinline__ void write(const Params& params, double scale_grad, bool exceeds) {
    const std::int64_t at = kernel::piece_index(params.dq);
    if (scale_grad_partials(params) != nullptr)
      device::store_global(scale_grad_partials(params) + at, scale_grad);
    device::store_global(params.redo_flags + at, exceeds ? 1 : 0);
  }
};

}  // namespace cottention::sm90
