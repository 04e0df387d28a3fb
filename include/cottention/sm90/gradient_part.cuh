// A warpgroup's part in the kernel that makes dq, dk and dv together (gradient.cuh): one output.
#pragma once

#include <cottention/sm90/epilogue.cuh>
#include <cottention/sm90/fused_backward.cuh>
#include <cottention/sm90/products.cuh>

namespace cottention::sm90 {

/// A warpgroup's part: one output.
template <AnyProblem P, Tiling tiling, recurrence::Output output>
struct GradientPart {
  using Block = GradientBlock<P, tiling>;
  using T = typename Block::T;
  using Output = recurrence::Output;
  using Params = typename Block::Params;
  using Storage = typename Block::Storage;
  using Rows = typename Block::Rows;
  using Pair = typename Block::Pair;
  using Pairs = typename Block::Pairs;
  using Position = typename Block::Position;
  using Weights = typename Block::Weights;
  static constexpr int dim = Block::dim;
  using R = kernel::Roles<P, output>;
  static constexpr bool of_queries = R::rows_are_queries;
  static constexpr bool weighs_rows = R::weighted == kernel::Weighted::rows && R::has_norm_backward;
  /// Whether the rows that the warpgroup measures have weights.
  static constexpr bool weighs = output == Block::first_output && P::scale != Scale::none;

  using Leading = tile::LeadingChunks<chunk_rows, R::direction>;

  /// Lanes of half have no register for it, nor has the warpgroup that makes the weights.
  static constexpr bool carries_row = !std::same_as<T, half> && output != Block::first_output;

  const Params& params;
  Weights& weights;
  Storage& storage;
  using Fragments = MeasuredRows<T, dim>;
  using Out = Sums<dim>;
  float row_factors[2] = {};  // of rows of dv: weight / ||k||
  int carried_row = 0;        // as row() returns it, where lanes have a register for it

  __device__ __forceinline__ void walk() {
    if (loads())
      for (int i = 1; i < tiling.stages; ++i) Block::load_next(params, storage);
#pragma unroll 1
    for (Position at; Block::within(storage, at); ++at.chunks) {
      if constexpr (carries_row) carried_row = Block::row_of(storage, at);
      if constexpr (weighs) prepare_weights(at);
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
  __device__ __forceinline__ const HeadSide& own_side() const {
    return of_queries ? storage.of_queries : storage.of_keys;
  }

  /// Scope: the first warpgroup, whose barriers are inside: 2.
  __device__ __forceinline__ void prepare_weights(const Position& at) {
    sync_first_group();  // the weights of the chunk before are read
    weights.begin_chunk(row(at), device::load_shared(&storage.of_keys.mask),
                        device::load_shared(&storage.of_keys.length));
    sync_first_group();  // those of the chunk are written
    weights.enter_chunk();
    factors(at).set_weight(weights, own_side(), row(at), own_side().is_whole(row(at)));
  }

  // Each use computes these: lanes have no registers for them.
  __device__ __forceinline__ Pair& keys(const Position& at) const { return storage.keys.at(at.keys()); }
  __device__ __forceinline__ Pair& queries(const Position& at) const {
    return storage.queries.at(at.queries(params.dq.row_group));
  }
  /// The first row of the chunk.
  __device__ __forceinline__ int row(const Position& at) const {
    return carries_row ? carried_row : Block::row_of(storage, at);
  }
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
      measure_queries(rows, at);
      load();
      Scores scores;
      bool finite;
      const bool plain = score(scores, rows, queries(at), keys(at), at, finite);
      storage.s_barriers.wait_full(at.state());
      Out out;
      RowScales<T> scales;
      scales.raise(scores);
      if (plain) {
        std::uint32_t p[4][4];
        to_operand<T, false>(scores, p);
        start_out(out, rows);
        scales.raise_sums(out);
        start_attend(out, p, keys(at).x);
        finish(out);
      } else {
        start_out(out, rows);
        finish(out);
        scales.raise_sums(out);
        attend_carefully<R::direction>(out, scores, keys(at).x, finite);
      }
      scales.lower_sums(out);
      rows.x.load(queries(at).x);  // they take no registers before
      storage.queries.barriers.arrive_empty(at.queries(params.dq.row_group));
      store(at, at.group_head, rows, out);
    }
    storage.s_barriers.arrive_empty(at.state());
    storage.keys.barriers.arrive_empty(at.keys());
  }
  /// The outputs of a chunk's keys, which the query heads of the group add to.
  __device__ __forceinline__ void walk_keys(Position& at) {
    Fragments rows;
    if constexpr (output == Output::dk)
      bound_keys(rows, at);
    else
      measure_keys(rows, at);
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
      bool finite;
      const bool plain = score(scores, rows, keys(at), queries(at), at, finite);
      RowScales<T> scales;
      scales.raise(scores);
      scales.raise_sums(out);
      if (plain) {
        start_attend(out, scores, c_of(queries(at)));
        finish(out);
      } else {
        attend_carefully<R::direction>(out, scores, c_of(queries(at)), finite);
        load_a(rows, keys(at));  // it takes no registers before
      }
      scales.lower_sums(out);
      storage.queries.barriers.arrive_empty(at.queries(params.dq.row_group));
    }
    if constexpr (output == Output::dv)
      load_row_factors(keys(at).terms);
    else
      rows.x.load(keys(at).x);  // it takes no registers before
    storage.keys.barriers.arrive_empty(at.keys());
    store(at, 0, rows, out);
  }

  /// By dq's warpgroup.
  __device__ __forceinline__ void measure_queries(Fragments& rows, const Position& at) {
    const auto place = at.queries(params.dq.row_group);
    storage.queries.barriers.wait_full(place);
    const auto of_x = rows.template measure_x<weighs>(queries(at), factors(at), own_side(), row(at));
    const float y_bound = rows.measure_y(queries(at)) * of_x.weight;
    Fragments::finish(queries(at), of_x, rows.finding_of_y());
    storage.queries.arrive_measured(place);
    if (!writes_own_row()) return;
    if constexpr (weighs) device::store_shared(factors(at).y_bound + own_row(), y_bound);
    storage.dq_error.observe_query(y_bound, of_x.inverse);
  }
  /// By dv's warpgroup, which has rows of k as a.
  __device__ __forceinline__ void measure_keys(Fragments& rows, const Position& at) {
    storage.keys.barriers.wait_full(at.keys());
    const auto of_x = rows.template measure_x<weighs>(keys(at), factors(at), own_side(), row(at));
    Fragments::finish(keys(at), of_x);
    storage.keys.arrive_measured(at.keys());
  }
  /// By dk's warpgroup, which has rows of v as a.
  __device__ __forceinline__ void bound_keys(Fragments& rows, const Position& at) {
    storage.keys.wait_measured(at.keys());
    const float y_bound = rows.measure_y(keys(at));
    if (!writes_own_row()) return;
    float weight = 1;
    if constexpr (weighs_rows)
      weight = device::load_shared(&factors(at).weights[OutputFactors::place(own_row())].weight);
    storage.dq_error.observe_key(y_bound * weight);
  }
  __device__ __forceinline__ OutputFactors& factors(const Position& at) const {
    return of_queries ? storage.query_factors : storage.key_factors[at.keys().index];
  }
  static __device__ __forceinline__ void load_a(Fragments& rows, Pair& keys) {
    if constexpr (R::has_norm_backward)
      rows.y.load(keys.y);
    else
      rows.x.load(keys.x);
  }
  /// Scope: warp.
  __device__ __forceinline__ void load() {
    if (loads()) Block::load_next(params, storage);
    device::sync_warp();
  }
  __device__ __forceinline__ bool loads() const {
    return output == Output::dq &&
           device::opaque(device::thread_index()) == (Block::weighs_queries ? 0 : 128);
  }

  /// Scores with the factors of terms. finite: whether c is. Returns whether it is and rounded scores do.
  __device__ __forceinline__ bool score(Scores& scores, const Fragments& rows, Pair& of_rows, Pair& of_terms,
                                        const Position& at, bool& finite) {
    constexpr bool norm = R::has_norm_backward;
    Rows& b = b_of(of_terms);
    start_scores(scores, a_of(rows), b);
    finish(scores);
    const bool is_leading = leading().contain(row(at));
    if (is_leading && leading().are_all()) replace_diagonal(scores, norm ? of_rows.y : of_rows.x, b);
    scale_and_mask<R::direction, false, false>(scores, of_terms.terms.factors.full, row_factors);
    finite = (findings_of(of_terms) & (norm ? finding::x_not_finite : finding::y_not_finite)) == 0;
    return finite && !is_leading;
  }
  /// Starts out = a H. It is finished, too, for half, since it has to be scaled.
  __device__ __forceinline__ void start_out(Out& out, const Fragments& rows) {
    auto& state = of_queries ? storage.s : storage.d;
    start_inter_chunk_of_two_ways<output != Output::dk>(out, a_of(rows), state);
    if constexpr (std::same_as<T, half>) {
      finish(out);
      out.scale_all(device::load_shared(&state.scale));
    }
  }

  __device__ __forceinline__ void load_row_factors(const ChunkTerms<T>& keys) {
    OutputFactors::for_both_rows(
        [&](int h, int r) { row_factors[h] = device::load_shared(keys.factors.full + r); });
  }
  /// The epilogue of a chunk's rows of a query head.
  __device__ __forceinline__ void store(const Position& at, int group_head, const Fragments& rows, Out& out) {
    if constexpr (output == Output::dv)
      out.scale_rows(row_factors);
    else
      finish_rows(at, rows, out);
    if (!own_side().is_whole(row(at))) clear_sums(out, own_side().valid(row(at)));
    const auto& view = own(params.dq.out, params.dk.out, params.dv.out);
    if (view.data == nullptr) return;
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
      device::tma_store(&own(params.dq_map, params.dk_map, params.dv_map), buffer.at(own_rows, 0), 0, to.row,
                        to.head, to.batch);
      device::cp_async_bulk_commit();
    }
  }
  /// Takes out through the norm of its rows.
  __device__ __forceinline__ void finish_rows(const Position& at, const Fragments& rows, Out& out) {
    OutputFactors::Row of_rows[2];
    OutputFactors::for_both_rows([&](int h, int r) {
      if constexpr (weighs_rows)
        of_rows[h] = device::load_shared(factors(at).rows + OutputFactors::place(r));
      else
        of_rows[h].norm_backward =
            device::load_shared(&factors(at).rows[OutputFactors::place(r)].norm_backward);
    });
    float products[2];
    const tile::NormBackward<float> backward[2] = {of_rows[0].norm_backward, of_rows[1].norm_backward};
    through_norm(out, rows.x, backward, products);
    if constexpr (weighs_rows) {
      const float coefficients[2] = {products[0] * of_rows[0].rnorm, products[1] * of_rows[1].rnorm};
      const float logs[2] = {of_rows[0].log_count, of_rows[1].log_count};
      add_scale_grad(own_of(coefficients), own_of(logs));
    }
    if constexpr (output == Output::dq) observe_dq(out, backward, products);
  }
  /// coefficient: x^ . dx^ of the lane's own row, with its weight.
  __device__ __forceinline__ void add_scale_grad(float coefficient, float log) {
    if ((of_queries ? params.dq : params.dk).scale_grad_partials == nullptr || !writes_own_row()) return;
    if (log < 0) return;
    double* const sum = storage.scale_grad + device::opaque(device::thread_index());
    device::store_shared(
        sum, device::load_shared(sum) + static_cast<double>(log) * static_cast<double>(coefficient));
    if constexpr (of_queries)
      storage.dq_error.observe_scale_grad(
          log * coefficient, log * device::load_shared(storage.query_factors.y_bound + own_row()));
  }
  /// Sums up the squares of rows of dq, rounded, and those of what went through the norm, d:
  ///
  ///     ||dq||^2 = scale^2 (||d||^2 - slope (x . d)^2)
  ///
  /// where the weight is in scale and not in d. Rows whose 1 / scale^2 leaves fp32's range count as less.
  __device__ __forceinline__ void observe_dq(const Out& out, const tile::NormBackward<float> (&backward)[2],
                                             const float (&products)[2]) {
    RowSquares<T> of_rows;
#pragma unroll
    for (int k = 0; k < dim / 16; ++k) {
      std::uint32_t pairs[4];
      pack_fragment<T>(out, k, pairs);
      of_rows.add(pairs);
    }
    if (!RowSquares<T>::are_here()) return;
    float squares[2], before = 0;
    of_rows.of_both_rows(squares);
    OutputFactors::for_both_rows([&](int h, int r) {
      const float scale_squared = backward[h].scale * backward[h].scale;
      float of_d = backward[h].slope * products[h] * products[h];
      if (scale_squared >= 0x1p-80f && scale_squared <= 0x1p80f) {
        const float inverse = device::rsqrt(scale_squared);
        of_d = device::fma(squares[h] * inverse, inverse, of_d);
      }
      const float weight =
          weighs_rows ? device::load_shared(&storage.query_factors.weights[OutputFactors::place(r)].weight)
                      : 1.0f;
      before = device::fma(of_d * weight, weight, before);
    });
    storage.dq_error.add_dq(before, squares[0] + squares[1]);
  }

  template <class X>
  static __device__ __forceinline__ const X& own(const X& of_dq, const X& of_dk, const X& of_dv) {
    return output == Output::dq ? of_dq : output == Output::dk ? of_dk : of_dv;
  }
};

}  // namespace cottention::sm90
