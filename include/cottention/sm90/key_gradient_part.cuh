// The kernels that make dk and dv together (key_gradients.cuh, key_gradient_apply.cuh): what their warpgroups
// share, and the part of those that have an output.
#pragma once

#include <concepts>
#include <cstdint>
#include <type_traits>

#include <cottention/sm90/epilogue.cuh>
#include <cottention/sm90/fused_backward.cuh>
#include <cottention/sm90/products.cuh>

namespace cottention::sm90 {

/// Whether there is a kernel that makes dk and dv.
template <AnyProblem P>
inline constexpr bool has_key_gradients = has_kernels<kernel::Roles<P, recurrence::Output::dk>>&&
    has_kernels<kernel::Roles<P, recurrence::Output::dv>>;

/// D^T in the accumulators of one warpgroup, which has all of it.
template <AnyProblem P>
struct WholeState {
  using Part = State<typename P::element, kernel::Roles<P, recurrence::Output::dk>::dims>;
  static_assert(Part::groups <= 2);
  Part first{0}, second{Part::groups - 1};

  /// f(part) for each 64 rows.
  template <class F>
  __device__ __forceinline__ void for_each_part(F f) {
    f(first);
    if constexpr (Part::groups == 2) f(second);
  }
  /// As State::publish_all().
  template <class To>
  __device__ __forceinline__ void publish(To& tile) {
    if constexpr (Part::groups == 2)
      Part::publish_all(tile, first, second);
    else
      Part::publish_all(tile, first);
  }
};

/// What the warpgroups share.
template <AnyProblem P, Tiling tiling>
struct KeyGradientBlock {
  static_assert(has_key_gradients<P>);
  using T = typename P::element;
  using Output = recurrence::Output;
  template <Output output>
  using Roles = kernel::Roles<P, output>;
  static constexpr HeadDim dims = P::head_dim;
  static constexpr bool causal = P::mask == Mask::causal;
  static constexpr int groups = causal ? 3 : 2, threads = 128 * groups;
  /// Whether factors of terms need no power of two of their own: in half, where they have weights, they do.
  static constexpr bool bounds_factors = !std::same_as<T, half>;
  /// The first warpgroup measures the rows that have weights.
  static constexpr bool weighs_queries = causal && P::scale == Scale::by_query;
  static constexpr Output first_output = weighs_queries ? Output::dv : Output::dk,
                          second_output = weighs_queries ? Output::dk : Output::dv;

  using Params = GradientParams<P>;
  using Pair = RowPair<T, dims.qk, dims.v>;
  using Pairs = PairRing<Pair, tiling.stages>;
  using Position = sm90::Position<tiling.stages>;
  using Weights =
      kernel::PositionWeights<P, recurrence::Direction::reverse, chunk_rows, threads / device::warp_size>;
  using Head = sm90::Head<Roles<Output::dk>, tiling>;

  /// Without queries where D is the sum over all of them.
  struct KeyStorage {
    int chunks, last_row;  // of the block's part, and the first row of its last one
    Position loaded;       // the next one to load; its thread has no registers for it
    HeadSide of_keys;
    Pairs keys;                             // of k and v, through whose memory dk and dv leave
    device::Mbarrier keys_read;             // once for each chunk
    OutputFactors factors;                  // of dk's rows; the weights are those of the rows that have some
    double scale_grad[128];                 // (threads of dk)
    TwoWayStateTile<T, dims.qk, dims.v> d;  // (q, g)
    kernel::CountStorage<float, threads / device::warp_size> counts;
  };
  struct CausalStorage : KeyStorage {
    bool is_last;  // the piece, in the order of the walk
    HeadSide of_queries;
    Pairs queries;    // of q and g
    int leading_end;  // of tile::LeadingChunks
    Ring<1> d_barriers;
  };
  using Storage = std::conditional_t<causal, CausalStorage, KeyStorage>;

  static __device__ __forceinline__ bool within(const Storage& storage, const Position& at) {
    return at.chunks < device::load_shared(&storage.chunks);
  }
  static __device__ __forceinline__ int row_of(const Storage& storage, const Position& at) {
    return device::load_shared(&storage.last_row) - at.chunks * chunk_rows;
  }

  static __device__ __forceinline__ void start_scale_grad(Storage& storage) {
    if (device::thread_index() < 128) device::store_shared(storage.scale_grad + device::thread_index(), 0.0);
  }
  /// Writes what the block has summed for the gradient of scale_logit, if dk's rows have the weights. Scope:
  /// block; barriers inside: 3.
  static __device__ __forceinline__ void store_scale_grad(const Params& params, int partials_per_head,
                                                          Storage& storage) {
    if (P::scale != Scale::by_key || params.dk.scale_grad_partials == nullptr) return;
    device::sync_block();                                       // the first warpgroup has summed
    const int thread = device::opaque(device::thread_index());  // lanes keep no address for it
    const double own = thread < 128 ? device::load_shared(storage.scale_grad + thread) : 0.0;
    kernel::store_scale_grad(params.dk.scale_grad_partials, partials_per_head, own, storage.counts.sum);
  }

  /// For the rows first, ..., last - 1. Scope: thread, before a barrier.
  static __device__ __forceinline__ void init(const Head& head, int first, int last, Storage& storage) {
    storage.of_keys.set(head.rows, head.kv_head, head.batch);
    const int chunks = (last - first + chunk_rows - 1) / chunk_rows;
    device::store_shared(&storage.chunks, chunks);
    device::store_shared(&storage.last_row, first + (chunks - 1) * chunk_rows);
    device::store_shared(&storage.loaded, Position{});
    storage.keys.init(4 * 2);
    device::mbarrier_init(&storage.keys_read, 4 * 2);
    if constexpr (causal) init_queries(head, storage);
    device::fence_mbarrier_init();
  }

  /// Starts the loads of the next position, if there is one. Scope: one thread, always the same.
  static __device__ __forceinline__ void load_next(const Params& params, Storage& storage) {
    Position at = device::load_shared(&storage.loaded);
    if (!within(storage, at)) return;
    const int row = row_of(storage, at), group = causal ? params.dk.term_group : 1;
    if (at.group_head == 0)
      storage.keys.load(at.keys(), params.k_map, params.v_map, storage.of_keys.at(0, row));
    if constexpr (causal)
      storage.queries.load(at.queries(group), params.q_map, params.g_map,
                           storage.of_queries.at(at.group_head, row));
    at.advance(group);
    device::store_shared(&storage.loaded, at);
  }

 private:
  static __device__ __forceinline__ void init_queries(const Head& head, Storage& storage) {
    storage.of_queries.set(head.terms, head.kv_head * head.group, head.batch);
    device::store_shared(&storage.is_last, head.is_last());
    storage.queries.init(4 * groups);
    storage.d_barriers.init(4, 4 * 2);
    if constexpr (std::same_as<T, half>)  // terms have their weights in full
      for (Pair& pair : storage.queries.pairs) device::store_shared(&pair.terms.weight, 1.0f);
  }
};

/// A warpgroup's part: one output.
template <AnyProblem P, Tiling tiling, recurrence::Output output>
struct KeyGradientPart {
  using Block = KeyGradientBlock<P, tiling>;
  using T = typename Block::T;
  using Output = recurrence::Output;
  using R = kernel::Roles<P, output>;
  using Params = typename Block::Params;
  using Storage = typename Block::Storage;
  using Pair = typename Block::Pair;
  using Pairs = typename Block::Pairs;
  using Position = typename Block::Position;
  using Valid = tile::ValidRows<chunk_rows>;
  using Leading = tile::LeadingChunks<chunk_rows, R::direction>;
  using Out = Sums<R::dims.v>;
  static constexpr bool is_first = output == Block::first_output, is_dk = output == Output::dk;
  static constexpr bool causal = Block::causal;
  /// Whether the rows that the warpgroup measures have weights.
  static constexpr bool weighs = is_first && (P::scale == Scale::by_key || Block::weighs_queries);

  const Params& params;
  typename Block::Weights& weights;
  Storage& storage;

  __device__ __forceinline__ void walk() {
    if (loads())
      for (int i = 1; i < tiling.stages; ++i) Block::load_next(params, storage);
#pragma unroll 1
    for (Position at; Block::within(storage, at); ++at.chunks) walk_chunk(at);
    if (lane_index() == 0) device::cp_async_bulk_wait<0>();
  }

 private:
  __device__ __forceinline__ void walk_chunk(Position& at) {
    at.group_head = 0;
    if constexpr (weighs && causal) prepare_weights(row(at));
    if constexpr (is_dk) measure(storage.keys, at.keys(), storage.of_keys, row(at));
    if constexpr (!is_dk && causal)
      measure(storage.queries, at.queries(group()), storage.of_queries, row(at));
    Out out;
    start_chunk(out, at);
    if constexpr (causal)
      attend_queries(out, at);
    else if (loads())
      Block::load_next(params, storage);
    store(at, out);
  }
  /// out += scores c of the chunk itself, for the query heads of the group.
  __device__ __forceinline__ void attend_queries(Out& out, Position& at) {
#pragma unroll 1
    for (; at.group_head < group(); ++at.group_head) {
      if (loads()) Block::load_next(params, storage);
      device::sync_warp();
      if (!is_dk && at.group_head > 0)
        measure(storage.queries, at.queries(group()), storage.of_queries, row(at));
      storage.queries.wait_measured(at.queries(group()));
      Scores scores;
      score(scores, at);
      RowScales<T> scales;
      scales.raise(scores);
      scales.raise_sums(out);
      const bool finite = (findings_of(queries(at)) & c_not_finite) == 0;
      if (finite && !leading().contain(row(at))) {
        start_attend(out, scores, c_of(queries(at)));
        finish(out);
      } else {
        attend_carefully<R::direction>(out, scores, c_of(queries(at)), finite);
      }
      scales.lower_sums(out);
      storage.queries.barriers.arrive_empty(at.queries(group()));
    }
  }

  // ---- Each use computes these: lanes have no registers for them.

  __device__ __forceinline__ int group() const { return params.dk.term_group; }
  __device__ __forceinline__ int row(const Position& at) const { return Block::row_of(storage, at); }
  __device__ __forceinline__ Pair& keys(const Position& at) const { return storage.keys.at(at.keys()); }
  __device__ __forceinline__ Pair& queries(const Position& at) const {
    return storage.queries.at(at.queries(group()));
  }
  __device__ __forceinline__ Leading leading() const { return {device::load_shared(&storage.leading_end)}; }
  __device__ __forceinline__ bool loads() const {
    return !is_dk && device::opaque(device::thread_index()) == (is_first ? 0 : 128);
  }

  // ---- Roles

  static constexpr std::uint32_t c_not_finite = is_dk ? finding::x_not_finite : finding::y_not_finite;
  static __device__ __forceinline__ auto& a_of(Pair& keys) {
    if constexpr (is_dk)
      return keys.y;
    else
      return keys.x;
  }
  static __device__ __forceinline__ auto& b_of(Pair& queries) { return a_of(queries); }
  static __device__ __forceinline__ auto& c_of(Pair& queries) {
    if constexpr (is_dk)
      return queries.x;
    else
      return queries.y;
  }
  static __device__ __forceinline__ auto& output_of(Pair& keys) {
    if constexpr (is_dk)
      return keys.x;
    else
      return keys.y;
  }

  // ---- Parts of a chunk

  /// out = a H. The buffer of the keys before is released, once their output has left.
  __device__ __forceinline__ void start_chunk(Out& out, const Position& at) {
    storage.keys.wait_measured(at.keys());
    if constexpr (causal) storage.d_barriers.wait_full(at.state());
    RowFragments<T, R::dims.qk> a;
    a.load(a_of(keys(at)));
    if constexpr (std::same_as<T, half>)
      start_inter_chunk_of_scaled<!is_dk>(out, a, storage.d);
    else if constexpr (is_dk)
      start_inter_chunk(out, a, storage.d);
    else
      start_inter_chunk_transposed(out, a, storage.d);
    finish(out);
    if constexpr (std::same_as<T, half>) out.scale_all(device::load_shared(&storage.d.scale));
    if constexpr (causal) storage.d_barriers.arrive_empty(at.state());
    if (at.chunks > 0) release_keys({at.chunks - 1});
  }
  /// Scope: the first warpgroup, whose barriers are inside: 2.
  __device__ __forceinline__ void prepare_weights(int row) {
    sync_first_group();  // the weights of the chunk before are read
    weights.begin_chunk(row, device::load_shared(&storage.of_keys.mask),
                        device::load_shared(&storage.of_keys.length));
    sync_first_group();  // those of the chunk are written
    weights.enter_chunk();
    storage.factors.set_weight(weights, storage.of_keys, row, storage.of_keys.is_whole(row));
  }
  /// Measures the warp's rows of a pair: of keys for dk's epilogue and dv's factors, of queries as terms.
  /// Rows that are not valid become zeros, and those of extreme norm are rescaled.
  __device__ __forceinline__ void measure(Pairs& pairs, typename Pairs::Place place, const HeadSide& side,
                                          int row) {
    pairs.barriers.wait_full(place);
    Pair& pair = pairs.at(place);
    const Valid valid = side.valid(row);
    bool changed = !valid.all();
    if (changed) {
      clear_rows(pair.x, valid);
      clear_rows(pair.y, valid);
      device::sync_warp();
    }
    tile::RowNorm<float> norm{squares_of_own_row(pair.x), 0};
    std::uint32_t found = !is_dk && !are_finite(pair.y) ? finding::y_not_finite : 0;
    if (device::any_lane(is_extreme<T>(norm.sum_sq))) {
      if (!is_dk && !are_finite(pair.x)) found |= finding::x_not_finite;
      norm = rescale_own_row(pair.x, norm.sum_sq);
      changed = true;
    }
    const float rnorm = norm.rnorm();
    const int own = own_row(), at = OutputFactors::place(own);
    OutputFactors::Weight weight{1, 0};
    if constexpr (weighs && causal)
      weight = device::load_shared(storage.factors.weights + at);
    else if constexpr (weighs)
      weight = {weights.weight(), valid.contains(own) ? weights.log_count(own) : -1.0f};
    if (writes_own_row()) {
      if constexpr (is_dk) {
        device::store_shared(pair.terms.factors.full + own, rnorm * weight.weight);
        const auto norm_backward = tile::NormBackward<float>::of(norm, rnorm, weight.weight);
        device::store_shared(storage.factors.rows + at,
                             OutputFactors::Row{norm_backward, rnorm * weight.weight, weight.log_count});
      } else {
        pair.terms.factors.set(own, rnorm * weight.weight);
      }
    }
    if constexpr (!is_dk) {
      found = (device::any_lane((found & finding::x_not_finite) != 0) ? finding::x_not_finite : 0) |
              (device::any_lane((found & finding::y_not_finite) != 0) ? finding::y_not_finite : 0);
      if (lane_index() == 0)
        device::store_shared(reinterpret_cast<std::uint32_t*>(&pair.findings) + warp_in_group(), found);
    }
    if (changed) device::fence_proxy_async();
    pairs.arrive_measured(place);
  }

  /// Scores with the factors of terms.
  __device__ __forceinline__ void score(Scores& scores, const Position& at) const {
    constexpr float no_factors[2] = {1, 1};
    start_scores(scores, a_of(keys(at)), b_of(queries(at)));
    finish(scores);
    if (leading().are_all()) replace_diagonal(scores, a_of(keys(at)), b_of(queries(at)));
    scale_and_mask<R::direction, false, false>(scores, queries(at).terms.factors.full, no_factors);
  }

  /// The epilogue of a chunk, through the memory of its keys.
  __device__ __forceinline__ void store(const Position& at, Out& out) {
    device::sync_warp();
    if (lane_index() == 0) device::mbarrier_arrive(&storage.keys_read);
    if constexpr (is_dk) {
      RowFragments<T, Block::dims.qk> x;
      x.load(keys(at).x);
      OutputFactors::Row of_rows[2];
      OutputFactors::for_both_rows([&](int h, int r) {
        of_rows[h] = device::load_shared(storage.factors.rows + OutputFactors::place(r));
      });
      float products[2];
      through_norm(out, x, {of_rows[0].norm_backward, of_rows[1].norm_backward}, products);
      if constexpr (weighs) {
        const float coefficients[2] = {products[0] * of_rows[0].rnorm, products[1] * of_rows[1].rnorm};
        const float logs[2] = {of_rows[0].log_count, of_rows[1].log_count};
        add_scale_grad(own_of(coefficients), own_of(logs));
      }
    } else {
      float factors[2];
      OutputFactors::for_both_rows(
          [&](int h, int r) { factors[h] = device::load_shared(keys(at).terms.factors.full + r); });
      out.scale_rows(factors);
    }
    clear_sums(out, storage.of_keys.valid(row(at)));
    device::mbarrier_wait(&storage.keys_read, at.chunks % 2);
    const auto& view = is_dk ? params.dk.out : params.dv.out;
    if (view.data == nullptr) return;
    device::sync_warp();  // all lanes have read the keys
    auto& buffer = output_of(keys(at));
    store_rows(buffer, out);
    device::fence_proxy_async();
    device::sync_warp();
    const int own_rows = 16 * warp_in_group();
    if (row(at) + own_rows + 16 > device::load_shared(&storage.of_keys.length))
      copy_rows(buffer, storage.of_keys.rows(view, 0), row(at));
    else if (lane_index() == 0)
      store_panels(buffer, is_dk ? params.dk_map : params.dv_map, storage.of_keys.at(0, row(at) + own_rows),
                   own_rows);
  }
  /// Once the warp's output of a chunk has left for memory.
  __device__ __forceinline__ void release_keys(const Position& at) {
    if (lane_index() == 0) device::cp_async_bulk_wait_read<0>();
    storage.keys.barriers.arrive_empty(at.keys());
  }
  /// coefficient: k^ . dk^ of the lane's own row, with its weight.
  __device__ __forceinline__ void add_scale_grad(float coefficient, float log) {
    if (params.dk.scale_grad_partials == nullptr || !writes_own_row() || log < 0) return;
    double* const sum = storage.scale_grad + device::opaque(device::thread_index()) % 128;
    device::store_shared(
        sum, device::load_shared(sum) + static_cast<double>(log) * static_cast<double>(coefficient));
  }
};

}  // namespace cottention::sm90
