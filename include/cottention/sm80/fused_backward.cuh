// What the kernels that make dq, dk and dv together share. One tile serves each of q, k, v and g whoever
// plays, and is read from memory once.
#pragma once

#include <cottention/kernel/dq_error_bound.cuh>
#include <cottention/kernel/scale_grad.cuh>
#include <cottention/sm80/factors.cuh>
#include <cottention/sm80/norm_backward.cuh>
#include <cottention/sm80/reduce.cuh>
#include <cottention/sm80/shared_state.cuh>

namespace cottention::sm80 {

/// Whether there are kernels that make all gradients together: two states have to be held.
template <AnyProblem P>
inline constexpr bool has_fused_backward =
    sizeof(typename P::element) == 2 && P::head_dim == HeadDim{P::head_dim.qk, P::head_dim.qk} &&
    P::head_dim.qk <= 128;

/// Blocks: x = batch index * heads_kv + key/value head.
template <AnyProblem P>
struct GradientParams {
  using T = typename P::element;
  kernel::RecurrenceParams<T> dq, dk, dv;  // of each alone; no sequence is cut, and no causal head in a group
  const Accumulate<T>* final_h = nullptr;  // null: summed here first
  int* redo_flags = nullptr;               // [batch head], causal: whether dq is to be done again
};

/// Roles of all gradients at a time. All tiles have the same columns, so that one serves whoever plays.
template <AnyProblem P, Tiling tiling>
struct FusedBackwardRoles {
  using Dq = kernel::Roles<P, kernel::Output::dq>;
  using Dk = kernel::Roles<P, kernel::Output::dk>;
  using Dv = kernel::Roles<P, kernel::Output::dv>;
  using Recurrence = typename Dq::Recurrence;
  using Part = sm80::Partition<Recurrence, tiling>;
  using State = sm80::State<Recurrence, tiling>;
  using Tile = typename Part::TileAB;
  static_assert(
      has_fused_backward<P> && std::same_as<Recurrence, typename Dv::Recurrence> &&
          std::same_as<Tile, typename Part::TileC>,
      "cottention: fused gradients hold all columns in a block. Remedy: a Tiling with columns = dim_qk "
      "rounded up to 16.");
  /// Half's range is narrow, so factors bring rows of g and v to length 1 too.
  static constexpr bool normalizes_all_operands = Dq::normalizes_all_operands;
};

/// What a chunk's rows are multiplied by, in shared memory. Rows of q and k also have their Projection.
template <class Part>
struct GradientFactors {
  using A = typename Part::A;
  alignas(16) A g[Part::chunk], v[Part::chunk];  // to length 1, for half; others: lengths
  sm80::TermFactors<typename Part::T, Part::chunk> query_term, key_term;  // of q g^T and of k v^T
  alignas(16) A dq[Part::chunk], dk[Part::chunk], dv[Part::chunk];        // of the outputs
};

/// Of the queries or the keys.
struct FusedBackwardSide {
  const std::uint8_t* mask;
  int length;

  __device__ __forceinline__ void set(const tile::Side& side) {
    device::store_shared(&mask, side.mask);
    device::store_shared(&length, side.length);
  }
};

/// The rows of a head: lanes have no room to keep them.
template <AnyProblem P, Tiling tiling>
struct FusedBackwardRows {
  using T = typename P::element;
  const T *q, *k, *v, *g;  // row 0 of each, of the first query head
  T *dq, *dk, *dv;
  FusedBackwardSide queries, keys;

  /// By one thread, before a barrier.
  __device__ __forceinline__ void set(
      const GradientParams<P>& params,
      const Head<typename FusedBackwardRoles<P, tiling>::Dq, tiling>& of_queries,
      const Head<typename FusedBackwardRoles<P, tiling>::Dk, tiling>& of_keys) {
    device::store_shared(&q, of_queries.norm_input(0).data);
    device::store_shared(&k, of_keys.norm_input(0).data);
    device::store_shared(&v, of_keys.a(0).data);
    device::store_shared(&g, of_queries.a(0).data);
    device::store_shared(&dq, of_queries.out(0).data);
    device::store_shared(&dk, of_keys.out(0).data);
    device::store_shared(&dv, of_keys.rows.rows(params.dv.out, of_keys.batch, of_keys.kv_head).data);
    queries.set(of_queries.rows);
    keys.set(of_keys.rows);
  }
};

/// In shared memory.
template <AnyProblem P, Tiling tiling>
struct FusedBackwardStorage {
  using Part = typename FusedBackwardRoles<P, tiling>::Part;
  using A = typename Part::A;
  GradientFactors<Part> factors;
  sm80::NormBackward<Part> q, k;
  sm80::SharedState<typename FusedBackwardRoles<P, tiling>::Recurrence, tiling> state;  // S and D, in turns
  kernel::CountStorage<A, Part::warps> counts;
  alignas(16) double scale_grad_partials[Part::chunk];  // of each row of all chunks; lanes have no room for
                                                        // them either
  kernel::DqErrorBound<P, Part::threads> dq_error;
  static constexpr int row_words = (Part::chunk + device::warp_size - 1) / device::warp_size;
  bool finite[3][row_words];  // rows of q, k and g, 32 at a time
};

/// The sums of terms, and what becomes of a chunk's rows.
template <AnyProblem P, Tiling tiling>
class FusedBackwardBlock {
 public:
  using Roles = FusedBackwardRoles<P, tiling>;
  using Part = typename Roles::Part;
  using State = typename Roles::State;
  using Tile = typename Roles::Tile;
  using T = typename Part::T;
  using A = typename Part::A;
  using Queries = Head<typename Roles::Dq, tiling>;
  using Keys = Head<typename Roles::Dk, tiling>;
  static constexpr int threads = Part::threads;
  static constexpr int row_words = FusedBackwardStorage<P, tiling>::row_words;
  /// Causal, S is taken apart (sm80/gradient.cuh).
  static constexpr bool bounds_dq = P::mask == Mask::causal;
  static constexpr bool weighs_keys = P::scale == Scale::by_key, weighs_queries = P::scale == Scale::by_query;

  const GradientParams<P>& params;
  const Queries& queries;
  const Keys& keys;
  const FusedBackwardRows<P, tiling>& rows;
  FusedBackwardStorage<P, tiling>& storage;
  State d;  // the sum of q g^T; what is multiplied by it takes it from shared memory
  kernel::PositionWeights<P, Roles::Dk::direction, Part::chunk, Part::warps> weights;

  /// S, (dim_v, dim_qk): all of it.
  static __device__ __forceinline__ void load_state(const GradientParams<P>& params, const Queries& queries,
                                                    State& s,
                                                    ReduceStorage<typename Roles::Dq, tiling>& storage) {
    if (params.final_h != nullptr) {
      s.load(params.final_h + queries.state_offset(), params.dq.layout, 0);
    } else {
      ChunkFactors<typename Roles::Dq, tiling> factors(queries, storage.factors);
      start_state(queries, s);
      reduce_piece(queries, factors, s, storage);
      device::sync_block();  // tiles of terms are read; their memory is used again
    }
  }

  /// By the whole block, like all that follows.
  __device__ __forceinline__ FusedBackwardBlock(const GradientParams<P>& p, const Queries& q, const Keys& k,
                                                const FusedBackwardRows<P, tiling>& addresses,
                                                FusedBackwardStorage<P, tiling>& memory)
      : params(p),
        queries(q),
        keys(k),
        rows(addresses),
        storage(memory),
        weights(p.dk, k.batch, k.kv_head, k.keys(), 0, k.last, memory.counts) {
    const A* dfinal = p.dk.initial_h;
    if (dfinal != nullptr)
      d.load(dfinal + k.state_offset(), tile::StateLayout::as_is, 0);
    else
      d.set_zero();
    memory.dq_error.set_zero();
    for (int row = device::thread_index(); row < Part::chunk; row += threads)
      device::store_shared(memory.scale_grad_partials + row, 0.0);
    device::sync_block();  // addresses are written
  }

  /// Before the barrier that starts a chunk at `row`.
  __device__ __forceinline__ void begin_chunk(int row) {
    weights.begin_chunk(row, device::load_shared(&rows.keys.mask), device::load_shared(&rows.keys.length));
  }

  // ---- rows in and out; group_head: a query head of the group

  __device__ __forceinline__ void copy_queries(int group_head, int row, Tile& q, Tile& g) const {
    copy(rows.queries, rows.q, params.dq.norm_input, rows.g, params.dq.a, group_head, row, q, g);
  }
  __device__ __forceinline__ void copy_keys(int row, Tile& k, Tile& v) const {
    copy(rows.keys, rows.k, params.dk.norm_input, rows.v, params.dk.a, 0, row, k, v);
  }

  /// dq of rows row, ... from the gradient with respect to their norm(q).
  __device__ __forceinline__ void store_dq(int group_head, int row, const Tile& q,
                                           typename Part::Output& out) {
    project(rows.queries, rows.dq, params.dq.out, group_head, row, q, storage.q,
            weighs_queries && params.dq.scale_grad_partials != nullptr, out);
  }
  __device__ __forceinline__ void store_dk(int row, const Tile& k, typename Part::Output& out) {
    project(rows.keys, rows.dk, params.dk.out, 0, row, k, storage.k,
            weighs_keys && params.dk.scale_grad_partials != nullptr, out);
  }
  __device__ __forceinline__ void store_dv(int row, const typename Part::Output& out) const {
    if (params.dv.out.data == nullptr) return;
    const auto valid = valid_rows(rows.keys, row);
    store(rows.keys, rows.dv, params.dv.out, 0, row, valid, out);
  }
  /// Once D is whole.
  __device__ __forceinline__ void store_d() {
    if (params.dv.final_h != nullptr)
      d.store(params.dv.final_h + keys.state_offset(), tile::StateLayout::as_is, 0);
  }
  /// At the end of a head.
  __device__ __forceinline__ void store_scale_grad_partials() {
    double* const scale_grad_partials =
        weighs_keys ? params.dk.scale_grad_partials : params.dq.scale_grad_partials;
    if (scale_grad_partials == nullptr) return;
    double sum = 0;  // a row has had the same thread all along
    for (int r = device::thread_index(); r < Part::chunk; r += threads)
      sum += device::load_shared(storage.scale_grad_partials + r);
    kernel::store_scale_grad(scale_grad_partials, 1, sum, storage.counts.sum);
  }

  // ---- norms and weights; what is written is there for all after the next barrier. For half, a row of q and
  // g falls to the same thread, and so does one of k and v.

  __device__ __forceinline__ void measure_queries(Tile& q, Tile& g) {
    GradientFactors<Part>& factors = storage.factors;
    const auto write_q = [&](int r, const tile::RowNorm<A>& of_q) {
      const A relative = weighs_queries ? weights.relative(r) : A{1},
              weight = whole(relative, weighs_queries);
      storage.q.set(r, of_q);
      factors.query_term.set(r, of_q.rnorm() * (weights_in_terms<T> ? weight : relative));
      device::store_shared(factors.dq + r, weight);
    };
    const auto write_g = [&](int r, const tile::RowNorm<A>& of_g) {
      device::store_shared(factors.g + r, Roles::normalizes_all_operands ? of_g.rnorm() : of_g.norm());
      if constexpr (Roles::normalizes_all_operands)
        device::store_shared(factors.dq + r, device::load_shared(factors.dq + r) * of_g.norm());
    };
    measure(g, q, 0, write_g, write_q);
  }
  __device__ __forceinline__ void measure_keys(Tile& k, Tile& v) {
    GradientFactors<Part>& factors = storage.factors;
    const auto write_k = [&](int r, const tile::RowNorm<A>& of_k) {
      const A relative = weighs_keys ? weights.relative(r) : A{1}, weight = whole(relative, weighs_keys);
      storage.k.set(r, of_k, Roles::normalizes_all_operands ? A{1} : weight);
      factors.key_term.set(r, of_k.rnorm() * (weights_in_terms<T> ? weight : relative));
      device::store_shared(factors.dk + r, weight);
      device::store_shared(factors.dv + r, Roles::normalizes_all_operands ? weight : weight * of_k.rnorm());
    };
    const auto write_v = [&](int r, const tile::RowNorm<A>& of_v) {
      device::store_shared(factors.v + r, Roles::normalizes_all_operands ? of_v.rnorm() : of_v.norm());
      if constexpr (Roles::normalizes_all_operands)
        device::store_shared(factors.dk + r, device::load_shared(factors.dk + r) * of_v.norm());
    };
    measure(v, k, Part::warps / 2, write_v, write_k);
  }

  /// After that barrier, and before the one that rows_finite() follows: the squares of the chunk's rows, and
  /// whether rows of q, k and g are finite.
  __device__ __forceinline__ void observe_rows() {
    for (int w = Part::warps - 1 - device::warp_index(); w < row_words; w += Part::warps) {
      const int r = device::warp_size * w + device::lane_index();
      bool q_is = true, k_is = true, g_is = true;
      if (r < Part::chunk) {
        const A g = weighted_g(r), over_q = device::load_shared(storage.q.slopes + r)[0];
        storage.dq_error.observe_row(g, weighted(storage.factors.dk, storage.factors.v, r), over_q);
        // One over a length that is not finite is 0 or NaN, with whatever weight.
        q_is = over_q > A{0};
        k_is = device::load_shared(storage.k.slopes + r)[0] > A{0};
        g_is = device::is_finite(g);
      }
      const bool finite[] = {!device::any_lane(!q_is), !device::any_lane(!k_is), !device::any_lane(!g_is)};
      if (device::lane_index() == 0)
#pragma unroll
        for (int x = 0; x < 3; ++x) device::store_shared(&storage.finite[x][w], finite[x]);
    }
  }
  enum class Rows { q, k, g };
  __device__ __forceinline__ bool rows_finite(Rows of) const {
    bool all = true;
#pragma unroll
    for (int w = 0; w < row_words; ++w)
      all = device::load_shared(&storage.finite[static_cast<int>(of)][w]) && all;
    return all;
  }

  // ---- from sums to gradients with respect to norm(q), norm(k) and v; `weight` is w of ChunkFactors

  __device__ __forceinline__ void scale_dq(typename Part::Output& out, A weight) const {
    if constexpr (Roles::normalizes_all_operands || weighs_queries)
      sm80::scale_rows<Part>(out, storage.factors.dq, weight);
  }
  /// But for the weights of rows, which NormBackward has unless T is half.
  __device__ __forceinline__ void scale_dk(typename Part::Output& out, A weight) const {
    if constexpr (Roles::normalizes_all_operands) sm80::scale_rows<Part>(out, storage.factors.dk, weight);
  }
  __device__ __forceinline__ void scale_dv(typename Part::Output& out, A weight) const {
    sm80::scale_rows<Part>(out, storage.factors.dv, weight);
  }

  /// What sums of terms are multiplied by: w of ChunkFactors.
  __device__ __forceinline__ A key_weight() const { return weighs_keys ? of_terms() : A{1}; }
  __device__ __forceinline__ A query_weight() const { return weighs_queries ? of_terms() : A{1}; }
  /// out from a (H / w) to row_i a_i (H / w).
  __device__ __forceinline__ void scale_prefix(typename Part::Output& out,
                                               [[maybe_unused]] const A* row_shared) const {
    if constexpr (Roles::normalizes_all_operands) sm80::scale_rows<Part>(out, row_shared, A{1});
  }
  /// Powers of two that bound the terms' factors, for half.
  __device__ __forceinline__ int key_exponent() const {
    return Roles::normalizes_all_operands ? exponent_of_factors<Part::chunk>(storage.factors.key_term.full)
                                          : 0;
  }
  __device__ __forceinline__ int query_exponent() const {
    return Roles::normalizes_all_operands ? exponent_of_factors<Part::chunk>(storage.factors.query_term.full)
                                          : 0;
  }

  static __device__ __forceinline__ typename Part::Values load(const Tile& tile) {
    return sm80::load_values<typename Roles::Recurrence, tiling>(tile);
  }

 private:
  /// The weight of a row from that relative to the chunk's.
  __device__ __forceinline__ A whole(A relative, bool weighs) const {
    return weighs ? weights.weight() * relative : A{1};
  }
  /// The length of a row of g times its weight.
  __device__ __forceinline__ A weighted_g(int row) const {
    return weighted(storage.factors.dq, storage.factors.g, row);
  }
  static __device__ __forceinline__ A weighted(const A* weights_shared, const A* lengths_shared, int row) {
    const A weight = device::load_shared(weights_shared + row);  // of half, with the length
    return Roles::normalizes_all_operands ? weight : weight * device::load_shared(lengths_shared + row);
  }
  __device__ __forceinline__ A of_terms() const {
    return !weights_in_terms<T> && weights.scaled() ? weights.weight() : A{1};
  }

  /// The lengths of y as it is, or bounds, and of x, after it has been scaled where that is called for.
  template <class WriteY, class WriteX>
  static __device__ __forceinline__ void measure(Tile& y, Tile& x, int from, WriteY write_y, WriteX write_x) {
    if constexpr (Roles::normalizes_all_operands) {
      sm80::rescale_and_measure_pairs<threads>(
          y, x, from, [&](int r, const tile::RowNorm<A>& of_y, const tile::RowNorm<A>& of_x) {
            write_x(r, of_x);
            write_y(r, of_y);
          });
    } else {
      sm80::rescale_and_measure_rows<threads>(x, from, write_x);
      sm80::bound_norms<threads>(y, from + (Part::warps + 2) / 4, write_y);
    }
  }

  static __device__ __forceinline__ tile::ValidRows<Part::chunk> valid_rows(const FusedBackwardSide& side,
                                                                            int row) {
    return tile::ValidRows<Part::chunk>::load(device::load_shared(&side.mask), row,
                                              device::load_shared(&side.length));
  }
  template <class E>
  static __device__ __forceinline__ tile::RowView<E> rows_of(const FusedBackwardSide& side,
                                                             E* const& data_shared, const tile::View<E>& view,
                                                             int group_head) {
    return {device::load_shared(&data_shared) + group_head * view.head, view.seq,
            device::load_shared(&side.length), device::load_shared(&side.mask)};
  }

  static __device__ __forceinline__ void copy(const FusedBackwardSide& side, const T* const& x_shared,
                                              const tile::View<const T>& x_view, const T* const& y_shared,
                                              const tile::View<const T>& y_view, int group_head, int row,
                                              Tile& x, Tile& y) {
    const tile::RowView<const T> from[] = {rows_of(side, x_shared, x_view, group_head),
                                           rows_of(side, y_shared, y_view, group_head)};
    Tile* const to[] = {&x, &y};
    sm80::copy_rows_async<threads>(from, row, 0, P::head_dim.v, to);
  }
  static __device__ __forceinline__ void store(const FusedBackwardSide& side, T* const& data_shared,
                                               const tile::View<T>& view, int group_head, int row,
                                               const tile::ValidRows<Part::chunk>& valid,
                                               const typename Part::Output& out) {
    sm80::store_output<Part>(rows_of(side, data_shared, view, group_head), row, 0, P::head_dim.v, valid, out);
  }

  __device__ __forceinline__ void project(const FusedBackwardSide& side, T* const& data_shared,
                                          const tile::View<T>& view, int group_head, int row, const Tile& x,
                                          sm80::NormBackward<Part>& norm_backward, bool wants_scale_grad,
                                          typename Part::Output& out) {
    const auto valid = valid_rows(side, row);
    norm_backward.multiply(x, out);
    device::sync_block();  // products of the warps' columns are written
    if (wants_scale_grad)
      for (int r = device::thread_index(); r < Part::chunk; r += threads) {
        if (!valid.contains(r)) continue;
        const A log = weights.log_count(r), term = log * norm_backward.coefficient(r);
        device::store_shared(
            storage.scale_grad_partials + r,
            device::load_shared(storage.scale_grad_partials + r) + static_cast<double>(term));
        if constexpr (bounds_dq && weighs_queries)
          storage.dq_error.observe_scale_grad(term, log * weighted_g(r));
      }
    if (view.data == nullptr) return;
    norm_backward.project(x, out);
    store(side, data_shared, view, group_head, row, valid, out);
  }
};

}  // namespace cottention::sm80
