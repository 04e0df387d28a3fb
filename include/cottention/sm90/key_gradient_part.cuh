// A warpgroup's part in the kernels that make dk and dv together (key_gradients.cuh, key_gradient_apply.cuh):
// one output.
#pragma once

#include <concepts>
#include <cstdint>

#include <cottention/sm90/epilogue.cuh>
#include <cottention/sm90/key_gradient_block.cuh>
#include <cottention/sm90/products.cuh>

namespace cottention::sm90 {

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
  using A = RowFragments<T, R::dims.qk>;
  using Out = Sums<R::dims.v>;
  static constexpr bool is_first = output == Block::first_output, is_dk = output == Output::dk;
  static constexpr bool causal = Block::causal;
  /// Whether the rows that the warpgroup measures have weights.
  static constexpr bool weighs = is_first && (P::scale == Scale::by_key || Block::weighs_queries);

  /// Lanes of half have no register for it.
  static constexpr bool carries_row = !std::same_as<T, half>;

  const Params& params;
  typename Block::Weights& weights;
  Storage& storage;
  int carried_row = 0;  // as row() returns it, where lanes have a register for it

  __device__ __forceinline__ void walk() {
    if (loads())
      for (int i = 1; i < tiling.stages; ++i) Block::load_next(params, storage);
#pragma unroll 1
    for (Position at{device::load_shared(&storage.first_chunk)}; Block::within(storage, at); ++at.chunks) {
      if constexpr (carries_row) carried_row = Block::row_of(storage, at);
      walk_chunk(at);
    }
    if (lane_index() == 0) device::cp_async_bulk_wait<0>();
  }

 private:
  /// Of a's own row of the lane, where D may be in half: its norm, or an upper bound, and what its products
  /// with D are multiplied by.
  struct OwnRow {
    float norm = 0, factor = 0;
  };

  __device__ __forceinline__ void walk_chunk(Position& at) {
    at.group_head = 0;
    if constexpr (weighs && causal) prepare_weights(at);
    if constexpr (is_dk && causal) measure_queries(at);
    Out out;
    start_chunk(out, at);
    if constexpr (causal) {
#pragma unroll 1
      for (; at.group_head < group(); ++at.group_head) attend_queries(out, at);
    } else {
      start_loads(at);
    }
    store(at, out);
  }
  __device__ __forceinline__ void start_chunk(Out& out, const Position& at) {
    A a;
    const OwnRow own = start_keys(a, at);
    apply(out, a, own, at);
  }
  /// out += scores c of a query head of the group. Scores take both operands from shared memory, since lanes
  /// have no registers for a beside out.
  __device__ __forceinline__ void attend_queries(Out& out, const Position& at) {
    start_loads(at);
    if (is_dk && at.group_head > 0) measure_queries(at);
    storage.queries.wait_measured(at.queries(group()));
    Scores scores;
    start_scores(scores, a_of(keys(at)), b_of(queries(at)));
    finish(scores);
    tell(scores, at);
    if (leading().are_all()) replace_diagonal(scores, a_of(keys(at)), b_of(queries(at)));
    constexpr float no_factors[2] = {1, 1};
    scale_and_mask<R::direction, false, false>(scores, queries(at).terms.factors.full, no_factors);
    RowScales<T> scales;
    scales.raise(scores);
    scales.raise_sums(out);
    const bool finite = c_is_finite(at);
    if (finite && !leading().contain(row(at))) {
      start_attend(out, scores, c_of(queries(at)));
      finish(out);
    } else {
      attend_carefully<R::direction>(out, scores, c_of(queries(at)), finite);
    }
    scales.lower_sums(out);
    storage.queries.barriers.arrive_empty(at.queries(group()));
  }

  // ---- Each use computes these: lanes have no registers for them.

  __device__ __forceinline__ int group() const { return params.dk.term_group; }
  /// The first row of the chunk.
  __device__ __forceinline__ int row(const Position& at) const {
    return carries_row ? carried_row : Block::row_of(storage, at);
  }
  __device__ __forceinline__ Pair& keys(const Position& at) const { return storage.keys.at(at.keys()); }
  __device__ __forceinline__ Pair& queries(const Position& at) const {
    return storage.queries.at(at.queries(group()));
  }
  __device__ __forceinline__ OutputFactors& factors(const Position& at) const {
    return storage.factors[at.keys().index];
  }
  __device__ __forceinline__ Leading leading() const { return {device::load_shared(&storage.leading_end)}; }
  __device__ __forceinline__ bool loads() const {
    return !is_dk && device::opaque(device::thread_index()) == (is_first ? 0 : 128);
  }

  // ---- Roles

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

  /// Loads a, and measures the keys where the warpgroup does.
  __device__ __forceinline__ OwnRow start_keys(A& a, const Position& at) {
    OwnRow own;
    if constexpr (!is_dk) own = measure_keys(a, at);
    storage.keys.wait_measured(at.keys());
    if constexpr (is_dk) {
      a.load(a_of(keys(at)));
      if constexpr (Block::rounds_state)
        own = {norm_bound_of_own_row(a, squares_of_own_row(a)),
               device::load_shared(&factors(at).rows[OutputFactors::place(own_row())].norm_backward.scale)};
    }
    return own;
  }
  /// Starts loads, once the keys before are released, whose output has left.
  __device__ __forceinline__ void start_loads(const Position& at) {
    if (at.group_head == 0 && at.chunks > 0) release_keys({at.chunks - 1});
    if (loads()) Block::load_next(params, storage);
    device::sync_warp();
  }
  /// out = a H.
  __device__ __forceinline__ void apply(Out& out, const A& a, [[maybe_unused]] const OwnRow& own,
                                        const Position& at) {
    if constexpr (causal) storage.d_barriers.wait_full(at.state());
    if constexpr (Block::rounds_state) {
      const float a_norm = own.norm * own.factor;
      storage.rounding.template add_products<R::dims.qk>(writes_own_row() ? a_norm * a_norm : 0.0f);
      if (device::load_shared(&storage.is_rounded))
        multiply_rounded_state<!is_dk>(out, a, own.norm, storage.d);
      else
        apply_both_parts(out, a);
    } else {
      apply_both_parts(out, a);
    }
    if constexpr (causal) storage.d_barriers.arrive_empty(at.state());
  }
  __device__ __forceinline__ void apply_both_parts(Out& out, const A& a) {
    start_inter_chunk_of_two_ways<!is_dk>(out, a, storage.d);
    finish(out);
    if constexpr (std::same_as<T, half>) out.scale_all(device::load_shared(&storage.d.scale));
  }
  /// Tells dv's warpgroup whether g is finite, by dk's scores.
  __device__ __forceinline__ void tell(const Scores& scores, const Position& at) const {
    if constexpr (is_dk) storage.told.tell(at.queries(group()), are_finite(scores));
  }
  /// Whether c is finite: q as it was measured, or g as it was told.
  __device__ __forceinline__ bool c_is_finite(const Position& at) const {
    if constexpr (is_dk)
      return findings_of(queries(at)) == 0;
    else
      return storage.told.wait(at.queries(group()));
  }
  /// Scope: the first warpgroup, whose barriers are inside: 2.
  __device__ __forceinline__ void prepare_weights(const Position& at) {
    sync_first_group();  // the weights of the chunk before are read
    weights.begin_chunk(row(at), device::load_shared(&storage.of_keys.mask),
                        device::load_shared(&storage.of_keys.length));
    sync_first_group();  // those of the chunk are written
    weights.enter_chunk();
    factors(at).set_weight(weights, storage.of_keys, row(at), storage.of_keys.is_whole(row(at)));
  }
  /// Clears the warp's rows of a pair that are not valid. Returns whether there are any.
  __device__ __forceinline__ bool clear_invalid(Pair& pair, const HeadSide& side, const Position& at) {
    if (side.is_whole(row(at))) return false;
    const Valid valid = side.valid(row(at));
    clear_rows(pair.x, valid);
    clear_rows(pair.y, valid);
    device::sync_warp();
    return true;
  }
  /// Loads the warp's rows of k, and measures them for dk's epilogue and dv's factors. Rows that are not
  /// valid become zeros, and those of extreme norm are rescaled; likewise those of queries below. Returns
  /// what the lane's own row is as a.
  __device__ __forceinline__ OwnRow measure_keys(A& x, const Position& at) {
    storage.keys.barriers.wait_full(at.keys());
    Pair& pair = keys(at);
    bool changed = clear_invalid(pair, storage.of_keys, at);
    x.load(pair.x);
    tile::RowNorm<float> norm{squares_of_own_row(x), 0};
    if (device::any_lane(is_extreme<T>(norm.sum_sq))) {
      norm = rescale_own_row(pair.x, norm.sum_sq);
      device::sync_warp();
      x.load(pair.x);
      changed = true;
    }
    const float rnorm = norm.rnorm();
    const int own = own_row(), place = OutputFactors::place(own);
    OutputFactors::Weight weight{1, 0};
    if constexpr (weighs && causal)
      weight = device::load_shared(factors(at).weights + place);
    else if constexpr (weighs)
      weight = {weights.weight(),
                storage.of_keys.valid(row(at)).contains(own) ? weights.log_count(own) : -1.0f};
    if (writes_own_row()) {
      device::store_shared(pair.terms.factors.full + own, rnorm * weight.weight);
      const auto norm_backward = tile::NormBackward<float>::of(norm, rnorm, weight.weight);
      device::store_shared(factors(at).rows + place,
                           OutputFactors::Row{norm_backward, rnorm * weight.weight, weight.log_count});
    }
    if (changed) device::fence_proxy_async();
    storage.keys.arrive_measured(at.keys());
    return {tile::RowNorm<float>{norm.sum_sq, 0}.norm(), rnorm * weight.weight};
  }
  /// Measures the warp's rows of q as terms.
  __device__ __forceinline__ void measure_queries(const Position& at) {
    const auto place = at.queries(group());
    storage.queries.barriers.wait_full(place);
    Pair& pair = queries(at);
    bool changed = clear_invalid(pair, storage.of_queries, at);
    tile::RowNorm<float> norm{squares_of_own_row(pair.x), 0};
    std::uint32_t found = 0;
    if (device::any_lane(is_extreme<T>(norm.sum_sq))) {
      found = device::any_lane(!are_finite(pair.x)) ? finding::x_not_finite : 0;
      norm = rescale_own_row(pair.x, norm.sum_sq);
      changed = true;
    }
    const int own = own_row();
    float weight = 1;
    if constexpr (weighs)
      weight = device::load_shared(&factors(at).weights[OutputFactors::place(own)].weight);
    pair.terms.factors.set_by_two(own, norm.rnorm() * weight, !writes_own_row());
    if (lane_index() == 0)
      device::store_shared(reinterpret_cast<std::uint32_t*>(&pair.findings) + warp_in_group(), found);
    if (changed) device::fence_proxy_async();
    storage.queries.arrive_measured(place);
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
        of_rows[h] = device::load_shared(factors(at).rows + OutputFactors::place(r));
      });
      float products[2];
      const tile::NormBackward<float> backward[2] = {of_rows[0].norm_backward, of_rows[1].norm_backward};
      through_norm(out, x, backward, products);
      if constexpr (Block::rounds_state) storage.rounding.add_taken_away(backward, products);
      if constexpr (P::scale == Scale::by_key) {
        const float coefficients[2] = {products[0] * of_rows[0].rnorm, products[1] * of_rows[1].rnorm};
        const float logs[2] = {of_rows[0].log_count, of_rows[1].log_count};
        add_scale_grad(own_of(coefficients), own_of(logs));
      }
    } else {
      float of_rows[2];
      OutputFactors::for_both_rows(
          [&](int h, int r) { of_rows[h] = device::load_shared(keys(at).terms.factors.full + r); });
      out.scale_rows(of_rows);
    }
    if (!storage.of_keys.is_whole(row(at))) clear_sums(out, storage.of_keys.valid(row(at)));
    if constexpr (Block::rounds_state) storage.rounding.add_output(out.squares());
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
