// All gradients of one causal head in one pass over its chunks, in reverse: sm80/gradient.cuh has the
// formulas, and why dq may have to be made again. Warpgroups have a part each:
//
//     dq       scores g v^T, out = scores k + g S^T, and the norms of q
//     dk       scores v g^T, out = scores q + v D^T, and the norms of k
//     dv       scores k q^T, out = scores g + k D
//     states   S, the sum of k v^T ahead, and D, the sum of q g^T behind, each added to or subtracted from
//     once
//
// S loses the very products that a forward call on this engine added, in the order of its chunks, so that
// nothing but roundings of fp32 sums is left in it.
#pragma once

#include <cottention/kernel/dq_error_bound.cuh>
#include <cottention/sm90/epilogue.cuh>
#include <cottention/sm90/products.cuh>
#include <cottention/sm90/registers.cuh>
#include <cottention/sm90/row_pairs.cuh>

namespace cottention::sm90 {

/// Whether there is a kernel that makes all gradients. Two states and their operands take the registers of a
/// warpgroup up to dim 64.
template <AnyProblem P>
inline constexpr bool has_fused_backward =
    std::same_as<typename P::element, bfloat16>&& P::mask == Mask::causal&& P::head_dim == HeadDim{64, 64};

/// Maps have the tensors' dimensions, as those of RecurrenceParams; tiles of outputs are 16 rows, a warp's.
template <AnyProblem P>
struct GradientParams : kernel::GradientParams<P> {
  device::TensorMap q_map, k_map, v_map, g_map, dq_map, dk_map, dv_map;
};

template <AnyProblem P, Tiling tiling>
struct Gradient {
  static_assert(has_fused_backward<P>);
  using T = typename P::element;
  using Output = recurrence::Output;
  static constexpr int dim = P::head_dim.qk;
  static constexpr bool needs_sm90a = true;
  static constexpr int groups = 4, threads = 128 * groups;
  static constexpr int min_blocks_per_sm = 1;
  static constexpr bool weighs_queries = P::scale == Scale::by_query;
  /// The first warpgroup measures the rows that have weights.
  static constexpr Output first_output = weighs_queries ? Output::dq : Output::dk,
                          second_output = weighs_queries ? Output::dk : Output::dq;

  using Params = GradientParams<P>;
  using Rows = Tile<T, dim>;
  using Pair = RowPair<T, dim>;
  using Pairs = PairRing<T, dim, tiling.stages>;
  using State = sm90::State<T, HeadDim{dim, dim}>;
  using PublishedState = StateTile<T, dim, dim>;
  using ErrorBound = kernel::DqErrorBound<P, threads, 128>;
  using Weights =
      kernel::PositionWeights<P, recurrence::Direction::reverse, chunk_rows, threads / device::warp_size>;
  template <Output output>
  using Roles = kernel::Roles<P, output>;
  using Head = sm90::Head<Roles<Output::dq>, tiling>;

  /// The queries or the keys of the head, in shared memory.
  struct Side {
    const std::uint8_t* mask;
    int length, start, first_head, batch;

    /// Scope: thread, before a barrier.
    __device__ __forceinline__ void set(const tile::SequenceSide& side, int head, std::int64_t batch_index) {
      device::store_shared(&mask, side.mask);
      device::store_shared(&length, side.length);
      device::store_shared(&start, static_cast<int>(side.start));
      device::store_shared(&first_head, head);
      device::store_shared(&batch, side.packed ? 0 : static_cast<int>(batch_index));
    }
    __device__ __forceinline__ tile::ValidRows<chunk_rows> valid(int row) const {
      return tile::ValidRows<chunk_rows>::load(device::load_shared(&mask), row, device::load_shared(&length));
    }
    /// Of a query head of the group.
    __device__ __forceinline__ Coordinates at(int group_head, int row) const {
      return {device::load_shared(&start) + row, device::load_shared(&first_head) + group_head,
              device::load_shared(&batch)};
    }
    template <class E>
    __device__ __forceinline__ tile::RowView<E> rows(const tile::View<E>& view, int group_head) const {
      const Coordinates first = at(group_head, 0);
      return {view.data + first.row * view.seq + first.batch * view.batch + first.head * view.head, view.seq,
              device::load_shared(&length)};
    }
  };
  /// A position of the walk: chunk by chunk from the last one on, and in each one query head of the group
  /// after the other.
  struct alignas(8) Position {
    int chunks = 0;      // before it
    int group_head = 0;  // query head of the group

    __device__ __forceinline__ void advance(int group) {
      if (++group_head < group) return;
      group_head = 0;
      ++chunks;
    }
    __device__ __forceinline__ typename Pairs::Place queries(int group) const {
      return in_ring(chunks * group + group_head);
    }
    __device__ __forceinline__ typename Pairs::Place keys() const { return in_ring(chunks); }
    __device__ __forceinline__ RingPlace<1> state() const { return {0, chunks % 2}; }

   private:
    static_assert((tiling.stages & (tiling.stages - 1)) == 0);
    static __device__ __forceinline__ typename Pairs::Place in_ring(int count) {
      const int own = device::opaque(count);
      return {own % tiling.stages, own / tiling.stages % 2};
    }
  };
  struct Storage {
    int chunks;       // of the sequence
    Position loaded;  // the next one to load; its thread has no registers for it
    Side of_queries, of_keys;
    Pairs queries, keys;  // of q and g, and of k and v
    Rows outputs[3];
    OutputFactors factors[2];                   // of dq's and dk's rows
    double scale_grad[threads];                 // (threads)
    int leading_keys_end, leading_queries_end;  // of tile::LeadingChunks
    PublishedState s, d;                        // S^T (v, k) and D (q, g)
    Ring<1> s_barriers, d_barriers;
    kernel::CountStorage<float, threads / device::warp_size> counts;
    ErrorBound dq_error;
  };

  static __device__ __forceinline__ void run(const Params& params, Storage& storage) {
    const Head head(params.dq);
    if (device::thread_index() == 0) init(head, storage);
    find_leading<recurrence::Direction::forward>(0, head.terms, storage.leading_keys_end);
    find_leading<recurrence::Direction::reverse>(1, head.rows, storage.leading_queries_end);
    Weights weights(params.dq, head.batch, head.kv_head, head.keys(), 0, head.last, storage.counts);
    storage.dq_error.set_zero();
    device::store_shared(storage.scale_grad + device::thread_index(), 0.0);
    device::sync_block();  // barriers are initialised
    float off = 0;         // of S from the initial state
    const int part = group_index();
    if (part == 0) {
      set_registers<Shares::first, Shares::average>();
      Part<first_output>{params, weights, storage}.walk();
    } else if (part == 1) {
      set_registers<Shares::second, Shares::average>();
      Part<second_output>{params, weights, storage}.walk();
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

  /// Writes which chunks of a walk over `terms` are leading ones. Scope: warp, before a barrier; one does it.
  template <recurrence::Direction direction>
  static __device__ __forceinline__ void find_leading(int warp, const tile::SequenceSide& terms,
                                                      int& end_shared) {
    if (device::warp_index() != warp) return;
    const auto found =
        tile::LeadingChunks<chunk_rows, direction>::find(terms.mask, 0, terms.length, terms.length);
    if (lane_index() == 0) device::store_shared(&end_shared, found.end);
  }
  static __device__ __forceinline__ bool within(const Storage& storage, const Position& at) {
    return at.chunks < device::load_shared(&storage.chunks);
  }
  static __device__ __forceinline__ int row_of(const Storage& storage, const Position& at) {
    return (device::load_shared(&storage.chunks) - 1 - at.chunks) * chunk_rows;
  }
  static __device__ __forceinline__ std::int64_t state_offset() {
    return std::int64_t{device::block_x()} * dim * dim;
  }

  static __device__ __forceinline__ void init(const Head& head, Storage& storage) {
    storage.of_queries.set(head.rows, head.kv_head * head.group, head.batch);
    storage.of_keys.set(head.terms, head.kv_head, head.batch);
    device::store_shared(&storage.chunks, (head.last + chunk_rows - 1) / chunk_rows);
    device::store_shared(&storage.loaded, Position{});
    storage.queries.init(4 * groups);
    storage.keys.init(4 * groups);
    storage.s_barriers.init(4, 4);
    storage.d_barriers.init(4, 8);
    device::fence_mbarrier_init();
  }

  /// Returns the thread's part of the squared distance that S, with all chunks subtracted, is off the initial
  /// state. Scope: the last warpgroup.
  static __device__ __forceinline__ float walk_states(const Params& params, Storage& storage) {
    State s(0), d(0);
    s.load(params.final_h + state_offset(), recurrence::StateLayout::as_is);
    if (params.dk.initial_h != nullptr)
      d.load(params.dk.initial_h + state_offset(), recurrence::StateLayout::transposed);
    else
      d.set_zero();
    storage.dq_error.observe_state(s.squares());
    StateExponents<T, dim> exponents;  // of half alone
    const auto publish = [&](State& state, PublishedState& to, Ring<1>& barriers, const Position& at) {
      barriers.wait_empty(at.state());
      state.publish(to, exponents);
      device::fence_proxy_async();
      barriers.arrive_full(at.state());
    };
#pragma unroll 1
    for (Position at; within(storage, at); at.advance(params.dq.row_group)) {
      if (at.group_head == 0) {
        publish(d, storage.d, storage.d_barriers, at);
        storage.keys.wait_measured(at.keys());
        Pair& keys = storage.keys.at(at.keys());
        s.template absorb<true, Change::subtract>(keys.x, keys.y, keys.terms);
        storage.keys.barriers.arrive_empty(at.keys());
        publish(s, storage.s, storage.s_barriers, at);
        storage.dq_error.observe_state(s.squares());
      }
      storage.queries.wait_measured(at.queries(params.dq.row_group));
      Pair& queries = storage.queries.at(at.queries(params.dq.row_group));
      d.template absorb<true>(queries.y, queries.x, queries.terms);
      storage.queries.barriers.arrive_empty(at.queries(params.dq.row_group));
    }
    if (params.dv.final_h != nullptr)
      d.store(params.dv.final_h + state_offset(), recurrence::StateLayout::transposed);
    const float* initial = params.dq.initial_h;
    return s.squared_distance(initial == nullptr ? nullptr : initial + state_offset(),
                              recurrence::StateLayout::as_is);
  }

  /// Starts the loads of the next position, if there is one. Scope: one thread, always the same.
  static __device__ __forceinline__ void load_next(const Params& params, Storage& storage) {
    Position at = device::load_shared(&storage.loaded);
    if (!within(storage, at)) return;
    const int row = row_of(storage, at);
    if (at.group_head == 0)
      storage.keys.load(at.keys(), params.k_map, params.v_map, storage.of_keys.at(0, row));
    storage.queries.load(at.queries(params.dq.row_group), params.q_map, params.g_map,
                         storage.of_queries.at(at.group_head, row));
    at.advance(params.dq.row_group);
    device::store_shared(&storage.loaded, at);
  }

  /// Writes what is left at the end of a head, and whether its dq is to be made again. Scope: block; barriers
  /// inside: those of ErrorBound::exceeds(), and 2.
  static __device__ __forceinline__ void finish_head(const Params& params, Storage& storage, float off) {
    double* const partials = (weighs_queries ? params.dq : params.dk).scale_grad_partials;
    if (partials != nullptr)
      kernel::store_scale_grad(
          partials, 1, device::load_shared(storage.scale_grad + device::opaque(device::thread_index())),
          storage.counts.sum);
    const bool exceeds =
        storage.dq_error.exceeds(off, device::load_shared(&storage.chunks), params.dq.out.data != nullptr,
                                 weighs_queries && partials != nullptr, storage.counts.sum);
    if (device::thread_index() == 0)
      device::store_global(params.redo_flags + device::block_x(), exceeds ? 1 : 0);
  }

  /// A warpgroup's part: one output.
  template <Output output>
  struct Part {
    using R = Roles<output>;
    static constexpr bool of_queries = R::rows_are_queries;
    static constexpr bool weighs_rows = R::weighted == kernel::Weighted::rows && R::has_norm_backward;

    using Leading = tile::LeadingChunks<chunk_rows, R::direction>;

    const Params& params;
    Weights& weights;
    Storage& storage;
    using Fragments = MeasuredRows<T, dim>;
    using Out = Sums<dim>;
    float row_factors[2] = {};  // of rows of dv: weight / ||k||

    __device__ __forceinline__ void walk() {
      if (loads())
        for (int i = 1; i < tiling.stages; ++i) load_next(params, storage);
#pragma unroll 1
      for (Position at; within(storage, at); ++at.chunks) {
        if constexpr (weighs_rows) prepare_weights(row(at));
        if constexpr (of_queries)
          walk_queries(at);
        else
          walk_keys(at);
      }
      if (lane_index() == 0) device::cp_async_bulk_wait<0>();
    }

   private:
    __device__ __forceinline__ Leading leading() const {
      return {device::load_shared(of_queries ? &storage.leading_keys_end : &storage.leading_queries_end)};
    }
    static __device__ __forceinline__ const RowFragments<T, dim>& a_of(const Fragments& rows) {
      return R::has_norm_backward ? rows.y : rows.x;
    }
    __device__ __forceinline__ const Side& own_side() const {
      return of_queries ? storage.of_queries : storage.of_keys;
    }

    /// Scope: the first warpgroup, whose barriers are inside: 2.
    __device__ __forceinline__ void prepare_weights(int row) {
      sync_first_group();  // the weights of the chunk before are read
      weights.begin_chunk(row, device::load_shared(&storage.of_keys.mask),
                          device::load_shared(&storage.of_keys.length));
      sync_first_group();  // those of the chunk are written
      weights.enter_chunk();
      factors().set_weight(weights, own_side().valid(row));
    }

    // Each use computes these: lanes have no registers for them.
    __device__ __forceinline__ Pair& keys(const Position& at) const { return storage.keys.at(at.keys()); }
    __device__ __forceinline__ Pair& queries(const Position& at) const {
      return storage.queries.at(at.queries(params.dq.row_group));
    }
    __device__ __forceinline__ int row(const Position& at) const { return row_of(storage, at); }
    static __device__ __forceinline__ Rows& b_of(Pair& terms) {
      return R::has_norm_backward ? terms.y : terms.x;
    }
    static __device__ __forceinline__ Rows& c_of(Pair& terms) {
      return R::has_norm_backward ? terms.x : terms.y;
    }

    /// The outputs of a chunk's queries, head by head.
    __device__ __forceinline__ void walk_queries(Position& at) {
      storage.keys.wait_measured(at.keys());
#pragma unroll 1
      for (at.group_head = 0; at.group_head < params.dq.row_group; ++at.group_head) {
        Fragments rows;
        measure(rows, storage.queries, at.queries(params.dq.row_group), row(at));
        load();
        Scores scores;
        const bool finite = score(scores, rows, queries(at), keys(at));
        storage.s_barriers.wait_full(at.state());
        Out out;
        if (finite && !leading().contain(row(at))) {
          std::uint32_t p[4][4];
          to_operand<T, false>(scores, p);
          start_out(out, rows);
          start_attend(out, p, keys(at).x);
          finish(out);
        } else {
          start_out(out, rows);
          finish(out);
          attend_carefully<R::direction>(out, scores, keys(at).x, finite);
          rows.x.load(queries(at).x);  // they take no registers before
        }
        storage.queries.barriers.arrive_empty(at.queries(params.dq.row_group));
        store(at, at.group_head, rows, out);
      }
      storage.s_barriers.arrive_empty(at.state());
      storage.keys.barriers.arrive_empty(at.keys());
    }
    /// The outputs of a chunk's keys, which the query heads of the group add to.
    __device__ __forceinline__ void walk_keys(Position& at) {
      Fragments rows;
      if constexpr (output == Output::dk) {
        measure(rows, storage.keys, at.keys(), row(at));
      } else {
        storage.keys.wait_measured(at.keys());
        load_a(rows, keys(at));
      }
      storage.d_barriers.wait_full(at.state());
      Out out;
      start_out(out, rows);
      finish(out);
      storage.d_barriers.arrive_empty(at.state());
#pragma unroll 1
      for (at.group_head = 0; at.group_head < params.dq.row_group; ++at.group_head) {
        load();
        storage.queries.wait_measured(at.queries(params.dq.row_group));
        Scores scores;
        const bool finite = score(scores, rows, keys(at), queries(at));
        if (finite && !leading().contain(row(at))) {
          start_attend(out, scores, c_of(queries(at)));
          finish(out);
        } else {
          attend_carefully<R::direction>(out, scores, c_of(queries(at)), finite);
          load_a(rows, keys(at));  // it takes no registers before
        }
        storage.queries.barriers.arrive_empty(at.queries(params.dq.row_group));
      }
      if constexpr (output == Output::dv)
        load_row_factors(keys(at).terms);
      else
        rows.x.load(keys(at).x);  // it takes no registers before
      storage.keys.barriers.arrive_empty(at.keys());
      store(at, 0, rows, out);
    }

    __device__ __forceinline__ void measure(Fragments& rows, Pairs& pairs, typename Pairs::Place place,
                                            int row) {
      pairs.barriers.wait_full(place);
      rows.template measure<weighs_rows>(pairs.at(place), factors(), own_side().valid(row));
      pairs.arrive_measured(place);
      if (writes_own_row()) observe_own_row();
    }
    __device__ __forceinline__ OutputFactors& factors() const { return storage.factors[of_queries ? 0 : 1]; }
    static __device__ __forceinline__ void load_a(Fragments& rows, Pair& keys) {
      if constexpr (R::has_norm_backward)
        rows.y.load(keys.y);
      else
        rows.x.load(keys.x);
    }
    /// Scope: warp.
    __device__ __forceinline__ void load() {
      if (loads()) load_next(params, storage);
      device::sync_warp();
    }
    __device__ __forceinline__ bool loads() const {
      return output == Output::dq && device::opaque(device::thread_index()) == (weighs_queries ? 0 : 128);
    }

    /// Scores with the factors of terms. Returns whether c is finite.
    __device__ __forceinline__ bool score(Scores& scores, const Fragments& rows, Pair& of_rows,
                                          Pair& of_terms) {
      constexpr bool norm = R::has_norm_backward;
      Rows& b = b_of(of_terms);
      start_scores(scores, a_of(rows), b);
      finish(scores);
      if (leading().are_all()) replace_diagonal(scores, norm ? of_rows.y : of_rows.x, b);
      scale_and_mask<R::direction, false, false>(scores, of_terms.terms.factors.full, row_factors);
      return (findings_of(of_terms) & (norm ? finding::x_not_finite : finding::y_not_finite)) == 0;
    }
    /// Starts out = a H.
    __device__ __forceinline__ void start_out(Out& out, const Fragments& rows) {
      if constexpr (output == Output::dk)
        start_inter_chunk(out, a_of(rows), storage.d);
      else
        start_inter_chunk_transposed(out, a_of(rows), of_queries ? storage.s : storage.d);
    }

    __device__ __forceinline__ void load_row_factors(const ChunkTerms<T>& keys) {
      OutputFactors::for_both_rows(
          [&](int h, int row) { row_factors[h] = device::load_shared(keys.factors.full + row); });
    }
    /// The epilogue of rows row, ... of a query head.
    __device__ __forceinline__ void store(const Position& at, int group_head, const Fragments& rows,
                                          Out& out) {
      if constexpr (output == Output::dv) {
        out.scale_rows(row_factors);
      } else {
        float weight[2], products[2];
        tile::NormBackward<float> norm_backward[2];
        OutputFactors::for_both_rows([&](int h, int r) {
          norm_backward[h] = device::load_shared(factors().norm_backward + r);
          if constexpr (weighs_rows) weight[h] = device::load_shared(factors().weight + r);
        });
        if (weighs_rows && weights.scaled()) out.scale_rows(weight);
        if constexpr (output == Output::dq) observe_dq<false>(out);
        through_norm(out, rows.x, norm_backward, products);
        if constexpr (weighs_rows) add_scale_grad(own_of(products));
        if constexpr (output == Output::dq) observe_dq<true>(out);
      }
      const auto& view = own(params.dq.out, params.dk.out, params.dv.out);
      if (view.data == nullptr) return;
      clear_sums(out, own_side().valid(row(at)));
      Rows& buffer = storage.outputs[static_cast<int>(output) - 1];
      if (lane_index() == 0) device::cp_async_bulk_wait_read<0>();
      device::sync_warp();
      store_rows(buffer, out);
      device::fence_proxy_async();
      device::sync_warp();
      const int own_rows = 16 * warp_in_group();
      if (row(at) + own_rows + 16 > device::load_shared(&own_side().length)) {
        copy_rows(buffer, own_side().rows(view, group_head), row(at));
      } else if (lane_index() == 0) {
        const Coordinates to = own_side().at(group_head, row(at) + own_rows);
        device::tma_store(&own(params.dq_map, params.dk_map, params.dv_map), buffer.at(own_rows, 0), 0,
                          to.row, to.head, to.batch);
        device::cp_async_bulk_commit();
      }
    }
    /// product: x . dx^ of the lane's own row.
    __device__ __forceinline__ void add_scale_grad(float product) {
      if ((of_queries ? params.dq : params.dk).scale_grad_partials == nullptr || !writes_own_row()) return;
      const float log = device::load_shared(factors().log_count + own_row());
      if (log < 0) return;
      const float coefficient = product * device::load_shared(factors().rnorm + own_row());
      double* const sum = storage.scale_grad + device::opaque(device::thread_index());
      device::store_shared(
          sum, device::load_shared(sum) + static_cast<double>(log) * static_cast<double>(coefficient));
      if constexpr (of_queries)
        storage.dq_error.observe_scale_grad(log * coefficient,
                                            log * device::load_shared(factors().y_bound + own_row()));
    }
    __device__ __forceinline__ void observe_own_row() {
      const float y = device::load_shared(factors().y_bound + own_row());
      if constexpr (of_queries)
        storage.dq_error.observe_query(y, device::load_shared(&factors().norm_backward[own_row()].scale));
      else
        storage.dq_error.observe_key(y);
    }
    template <bool after_norm>
    __device__ __forceinline__ void observe_dq(Out& out) {
      storage.dq_error.template observe_dq<after_norm>(
          [&out](auto f) { out.for_each([&f](float& x, int, int, int) { f(x); }); });
    }

    template <class X>
    static __device__ __forceinline__ const X& own(const X& of_dq, const X& of_dk, const X& of_dv) {
      return output == Output::dq ? of_dq : output == Output::dk ? of_dk : of_dv;
    }
  };
};

}  // namespace cottention::sm90
