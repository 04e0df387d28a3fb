// What the kernels that compute dq, dk and dv together share. A tile of each of q, k, v and g serves all
// three roles, and is read from memory once.
#pragma once

#include <type_traits>

#include <cottention/kernel/dq_error_bound.cuh>
#include <cottention/sm80/epilogue.cuh>
#include <cottention/sm80/intra_chunk.cuh>
#include <cottention/sm80/reduce.cuh>
#include <cottention/sm80/shared_state.cuh>

namespace cottention::sm80 {

/// Whether there are kernels that compute all gradients together, which hold two states.
template <AnyProblem P>
inline constexpr bool has_fused_backward =
    sizeof(typename P::element) == 2 && P::head_dim == HeadDim{P::head_dim.qk, P::head_dim.qk} &&
    P::head_dim.qk <= 128;

/// The three roles. All tiles have the same columns, so that one serves in each role.
template <AnyProblem P, Tiling tiling>
struct FusedBackwardRoles {
  using Dq = kernel::Roles<P, recurrence::Output::dq>;
  using Dk = kernel::Roles<P, recurrence::Output::dk>;
  using Dv = kernel::Roles<P, recurrence::Output::dv>;
  using Recurrence = typename Dq::Recurrence;
  using Part = sm80::Partition<Recurrence, tiling>;
  using State = sm80::State<Recurrence, tiling>;
  using Tile = typename Part::TileAB;
  static_assert(
      has_fused_backward<P> && std::same_as<Recurrence, typename Dv::Recurrence> &&
          std::same_as<Tile, typename Part::TileC>,
      "cottention: fused gradients hold all columns in a block. Remedy: a Tiling with columns = dim_qk "
      "rounded up to 16.");
  /// Half's range is narrow, so factors bring rows of g and v to norm 1 too.
  static constexpr bool normalizes_all_operands = Dq::normalizes_all_operands;
};

/// The factors of a chunk, in shared memory, beside the NormBackward of q and of k.
template <class Part>
struct GradientFactors {
  /// rows: of g, and of dq, where g is a; of v, and of dk, where v is a. Types other than half have norms for
  /// `a`.
  SideFactors<Part> queries, keys;
  alignas(16) typename Part::A dv[Part::chunk];  // (chunk): of the output where k is a
};

/// The queries or the keys of a sequence, in shared memory.
struct SharedSide {
  const std::uint8_t* mask;
  int length;

  /// Scope: one thread, before a barrier.
  __device__ __forceinline__ void set(const tile::SequenceSide& side) {
    device::store_shared(&mask, side.mask);
    device::store_shared(&length, side.length);
  }
  template <int chunk>
  __device__ __forceinline__ tile::ValidRows<chunk> valid(int row) const {
    return tile::ValidRows<chunk>::load(device::load_shared(&mask), row, device::load_shared(&length));
  }
};

/// The rows of a query head of the group, of one tensor, whose address is in shared memory.
template <class E>
struct SharedRows {
  const SharedSide& side;
  E* const& data_shared;  // row 0 of the group's first head
  const tile::View<E>& view;
  int group_head;

  __device__ __forceinline__ tile::RowView<E> operator()() const {
    return {device::load_shared(&data_shared) + group_head * view.head, view.seq,
            device::load_shared(&side.length), device::load_shared(&side.mask)};
  }
};

/// Row 0 of each tensor, of the group's first query head, in shared memory.
template <AnyProblem P, Tiling tiling>
struct FusedBackwardRows {
  using T = typename P::element;
  const T *q, *k, *v, *g;
  T *dq, *dk, *dv;
  SharedSide queries, keys;

  /// Scope: one thread, before a barrier.
  __device__ __forceinline__ void set(
      const kernel::GradientParams<P>& params,
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

template <AnyProblem P, Tiling tiling>
struct FusedBackwardStorage {
  using Part = typename FusedBackwardRoles<P, tiling>::Part;
  using A = typename Part::A;
  GradientFactors<Part> factors;
  NormBackward<Part> q, k;
  SharedState<typename FusedBackwardRoles<P, tiling>::Recurrence, tiling> state;  // (dim, dim): S or D
  kernel::CountStorage<A, Part::warps> counts;
  // (chunk): of each row of all chunks; lanes have no registers for them.
  alignas(16) double scale_grad_partials[Part::chunk];
  struct Nothing {};
  std::conditional_t<P::mask == Mask::causal, kernel::DqErrorBound<P, Part::threads>, Nothing> dq_error;
  static constexpr int row_words = (Part::chunk + device::warp_size - 1) / device::warp_size;
  bool finite[3][row_words];  // by role: whether rows of c are finite, 32 at a time
};

/// The states, and the parts that a chunk's outputs are computed in. Scope of all members, unless they say
/// otherwise: block.
template <AnyProblem P, Tiling tiling>
class FusedBackwardBlock {
 public:
  using Roles = FusedBackwardRoles<P, tiling>;
  using Part = typename Roles::Part;
  using State = typename Roles::State;
  using Tile = typename Roles::Tile;
  using T = typename Part::T;
  using A = typename Part::A;
  using Out = typename Part::Output;
  using Output = recurrence::Output;
  using Queries = Head<typename Roles::Dq, tiling>;
  using Keys = Head<typename Roles::Dk, tiling>;
  static constexpr int threads = Part::threads;
  static constexpr int row_words = FusedBackwardStorage<P, tiling>::row_words;
  /// Causal, S is downdated (sm80/gradient.cuh).
  static constexpr bool bounds_dq = P::mask == Mask::causal;
  static constexpr bool weighs_keys = P::scale == Scale::by_key, weighs_queries = P::scale == Scale::by_query;
  static constexpr bool scales_rows = Roles::normalizes_all_operands;

  const kernel::GradientParams<P>& params;
  const Queries& queries;
  const Keys& keys;
  const FusedBackwardRows<P, tiling>& rows;
  FusedBackwardStorage<P, tiling>& storage;
  State d;  // (dim, dim): D, the sum of q g^T; operands take it from shared memory
  kernel::PositionWeights<P, Roles::Dk::direction, Part::chunk, Part::warps> weights;

  /// S^T, the sum of v k^T over the sequence and the initial state. Barriers inside: those of reduce_piece().
  static __device__ __forceinline__ void load_state(const kernel::GradientParams<P>& params,
                                                    const Queries& queries, State& s,
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

  /// Barriers inside: 1, and those of PositionWeights.
  __device__ __forceinline__ FusedBackwardBlock(const kernel::GradientParams<P>& p, const Queries& q,
                                                const Keys& k, const FusedBackwardRows<P, tiling>& addresses,
                                                FusedBackwardStorage<P, tiling>& memory)
      : params(p),
        queries(q),
        keys(k),
        rows(addresses),
        storage(memory),
        weights(p.dk, k.batch, k.kv_head, k.keys(), 0, k.last, memory.counts) {
    const A* dfinal = p.dk.initial_h;
    if (dfinal != nullptr)
      d.load(dfinal + k.state_offset(), recurrence::StateLayout::as_is, 0);
    else
      d.set_zero();
    if constexpr (bounds_dq) memory.dq_error.set_zero();
    for (int row = device::thread_index(); row < Part::chunk; row += threads)
      device::store_shared(memory.scale_grad_partials + row, 0.0);
    device::sync_block();  // addresses are written
  }

  /// Before the barrier that starts a chunk at `row`.
  __device__ __forceinline__ void begin_chunk(int row) {
    weights.begin_chunk(row, device::load_shared(&rows.keys.mask), device::load_shared(&rows.keys.length));
  }

  // ---- rows in, (chunk, dim) each; group_head: a query head of the group

  __device__ __forceinline__ void copy_queries(int group_head, int row, Tile& q, Tile& g) const {
    copy(rows.queries, rows.q, params.dq.norm_input, rows.g, params.dq.a, group_head, row, q, g);
  }
  __device__ __forceinline__ void copy_keys(int row, Tile& k, Tile& v) const {
    copy(rows.keys, rows.k, params.dk.norm_input, rows.v, params.dk.a, 0, row, k, v);
  }

  // ---- measure: norms and weights, written for all after the next barrier; no barrier inside

  __device__ __forceinline__ void measure_queries(Tile& q, Tile& g) {
    measure<weighs_queries>(
        q, g, 0, storage.factors.queries,
        [&](int r, const tile::RowNorm<A>& of_q, A rnorm, A) { storage.q.set(r, of_q, rnorm); });
  }
  __device__ __forceinline__ void measure_keys(Tile& k, Tile& v) {
    measure<weighs_keys>(k, v, Part::warps / 2, storage.factors.keys,
                         [&](int r, const tile::RowNorm<A>& of_k, A rnorm, A weight) {
                           storage.k.set(r, of_k, rnorm, scales_rows ? A{1} : weight);
                           device::store_shared(storage.factors.dv + r,
                                                scales_rows ? weight : weight * rnorm);
                         });
  }

  /// After the barrier that follows measuring, and before the one that c_is_finite() follows: what the error
  /// bound of dq takes of rows, and whether rows of q, k and g are finite.
  __device__ __forceinline__ void observe_rows() {
    for (int w = Part::warps - 1 - device::warp_index(); w < row_words; w += Part::warps) {
      const int r = device::warp_size * w + device::lane_index();
      bool q_is = true, k_is = true, g_is = true;
      if (r < Part::chunk) {
        const A g = weighted_norm(storage.factors.queries.rows, r), over_q = storage.q.scale(r);
        storage.dq_error.observe_query(g, over_q);
        storage.dq_error.observe_key(weighted_norm(storage.factors.keys.rows, r));
        // One over a norm that is not finite is 0 or NaN, with whatever weight.
        q_is = over_q > A{0};
        k_is = storage.k.scale(r) > A{0};
        g_is = device::is_finite(g);
      }
      const bool k_all = !device::any_lane(!k_is), q_all = !device::any_lane(!q_is),
                 g_all = !device::any_lane(!g_is);
      if (device::lane_index() == 0) {
        device::store_shared(&storage.finite[index<Output::dq>][w], k_all);
        device::store_shared(&storage.finite[index<Output::dk>][w], q_all);
        device::store_shared(&storage.finite[index<Output::dv>][w], g_all);
      }
    }
  }
  template <Output output>
  __device__ __forceinline__ bool c_is_finite() const {
    bool all = true;
#pragma unroll
    for (int w = 0; w < row_words; ++w) all = device::load_shared(&storage.finite[index<output>][w]) && all;
    return all;
  }

  // ---- output: the parts of a role's output between its sums

  /// Factors of a's rows: of g, v and k.
  template <Output output>
  __device__ __forceinline__ const A* row_factors() const {
    if constexpr (output == Output::dv) return storage.k.rnorm;
    return (output == Output::dq ? storage.factors.queries : storage.factors.keys).rows.a;
  }
  /// out = a H, or a H^T for dk, with row factors; `state`: H as an operand; over_weight: 1 / w of
  /// ChunkFactors. a, out: (chunk, dim). Scope: warp; no barrier inside.
  template <Output output, class StateOperand>
  __device__ __forceinline__ void inter_chunk(const StateOperand& state, const Tile& a, Out& out,
                                              A over_weight = A{1}) const {
    if constexpr (output == Output::dk)
      state.apply_transposed(a, out, over_weight);
    else
      state.apply(a, out, over_weight);
    if constexpr (scales_rows) sm80::scale_rows<Part>(out, row_factors<output>(), A{1});
  }
  /// From sums to the gradient with respect to norm(q), norm(k) or v; `weight`: w. The weights of dk's rows
  /// are in NormBackward unless T is half. Scope: warp; no barrier inside.
  template <Output output>
  __device__ __forceinline__ void scale(Out& out, A weight = A{1}) const {
    if constexpr (output == Output::dv)
      sm80::scale_rows<Part>(out, storage.factors.dv, weight);
    else if constexpr (scales_rows || (output == Output::dq && weighs_queries))
      sm80::scale_rows<Part>(
          out, (output == Output::dq ? storage.factors.queries : storage.factors.keys).rows.output, weight);
  }
  /// Epilogue: rows row, ... of the output from scale()'s. x: (chunk, dim), q or k. Barriers inside: 1, none
  /// for dv.
  template <Output output>
  __device__ __forceinline__ void store(int group_head, int row, const Tile& x, Out& out) {
    if constexpr (output == Output::dq)
      store_through_norm(SharedRows<T>{rows.queries, rows.dq, params.dq.out, group_head}, row, x, storage.q,
                         weighs_queries && params.dq.scale_grad_partials != nullptr, out);
    else if constexpr (output == Output::dk)
      store_through_norm(SharedRows<T>{rows.keys, rows.dk, params.dk.out, 0}, row, x, storage.k,
                         weighs_keys && params.dk.scale_grad_partials != nullptr, out);
    else if (params.dv.out.data != nullptr)
      sm80::store_output<Part>(SharedRows<T>{rows.keys, rows.dv, params.dv.out, 0}(), row, 0, P::head_dim.v,
                               rows.keys.template valid<Part::chunk>(row), out);
  }

  // ---- update

  /// What sums of terms are multiplied by: w of ChunkFactors.
  __device__ __forceinline__ A key_weight() const { return kernel::state_weight<T, weighs_keys>(weights); }
  __device__ __forceinline__ A query_weight() const {
    return kernel::state_weight<T, weighs_queries>(weights);
  }
  /// Powers of two that bound the factors of k v^T and of q g^T, for half.
  __device__ __forceinline__ int key_exponent() const { return exponent(storage.factors.keys); }
  __device__ __forceinline__ int query_exponent() const { return exponent(storage.factors.queries); }

  /// Once D is complete. No barrier inside.
  __device__ __forceinline__ void store_d() {
    if (params.dv.final_h != nullptr)
      d.store(params.dv.final_h + keys.state_offset(), recurrence::StateLayout::as_is, 0);
  }
  /// At the end of a head. Barriers inside: 2.
  __device__ __forceinline__ void store_scale_grad_partials() {
    double* const scale_grad_partials =
        weighs_keys ? params.dk.scale_grad_partials : params.dq.scale_grad_partials;
    if (scale_grad_partials == nullptr) return;
    double sum = 0;  // each row has the same thread in all chunks
    for (int r = device::thread_index(); r < Part::chunk; r += threads)
      sum += device::load_shared(storage.scale_grad_partials + r);
    kernel::store_scale_grad(scale_grad_partials, 1, sum, storage.counts.sum);
  }

  static __device__ __forceinline__ typename Part::Values load(const Tile& tile) {
    return sm80::load_values<typename Roles::Recurrence, tiling>(tile);
  }

 private:
  template <Output output>
  static constexpr int index = static_cast<int>(output) - 1;

  static __device__ __forceinline__ int exponent(const SideFactors<Part>& side) {
    return scales_rows ? tile::exponent_of_factors<Part::chunk>(side.term.full) : 0;
  }
  /// The norm of a row of g or v times its weight.
  static __device__ __forceinline__ A weighted_norm(const RowFactors<Part>& of, int row) {
    const A weight = device::load_shared(of.output + row);  // of half, with the norm
    return scales_rows ? weight : weight * device::load_shared(of.a + row);
  }

  /// Measures x, q or k, and y, g or v, (chunk, dim); rows of extreme norm are rescaled. Rows fall to the
  /// warps from `from` on. write_x(row, norm, rnorm, weight) is called for each row of x.
  template <bool is_weighted, class WriteX>
  __device__ __forceinline__ void measure(Tile& x, Tile& y, int from, SideFactors<Part>& side,
                                          WriteX write_x) {
    const auto write = [&](int r, const tile::RowNorm<A>& of_x) {
      const kernel::RowWeight<A> weight = kernel::row_weight<is_weighted>(weights, r);
      const A rnorm = of_x.rnorm();
      write_x(r, of_x, rnorm, weight.full);
      side.term.set(r, rnorm * (kernel::weights_in_terms<T> ? weight.full : weight.relative));
      if constexpr (!scales_rows) device::store_shared(side.rows.output + r, weight.full);
      return weight.full;
    };
    if constexpr (scales_rows) {
      sm80::rescale_and_measure_pairs<threads>(
          y, x, from, [&](int r, const tile::RowNorm<A>& of_y, const tile::RowNorm<A>& of_x) {
            const A weight = write(r, of_x);
            device::store_shared(side.rows.a + r, of_y.rnorm());
            device::store_shared(side.rows.output + r, weight * of_y.norm());
          });
    } else {
      sm80::rescale_and_measure_rows<threads>(x, from, write);
      if constexpr (bounds_dq)
        sm80::bound_norms<threads>(y, from + (Part::warps + 2) / 4, [&](int r, const tile::RowNorm<A>& of_y) {
          device::store_shared(side.rows.a + r, of_y.norm());
        });
    }
  }

  static __device__ __forceinline__ void copy(const SharedSide& side, const T* const& x_shared,
                                              const tile::View<const T>& x_view, const T* const& y_shared,
                                              const tile::View<const T>& y_view, int group_head, int row,
                                              Tile& x, Tile& y) {
    const tile::RowView<const T> from[] = {SharedRows<const T>{side, x_shared, x_view, group_head}(),
                                           SharedRows<const T>{side, y_shared, y_view, group_head}()};
    Tile* const to[] = {&x, &y};
    sm80::copy_rows_async<threads>(from, row, 0, P::head_dim.v, to);
  }

  __device__ __forceinline__ void store_through_norm(const SharedRows<T>& to, int row, const Tile& x,
                                                     NormBackward<Part>& norm_backward, bool wants_scale_grad,
                                                     Out& out) {
    const auto valid = to.side.template valid<Part::chunk>(row);
    const auto add = [&](int r, A coefficient) {
      const A log = weights.log_count(r), term = log * coefficient;
      double* const sum = storage.scale_grad_partials + r;
      device::store_shared(sum, device::load_shared(sum) + static_cast<double>(term));
      if constexpr (bounds_dq && weighs_queries)
        storage.dq_error.observe_scale_grad(term, log * weighted_norm(storage.factors.queries.rows, r));
    };
    const auto store = [&] { sm80::store_output<Part>(to(), row, 0, P::head_dim.v, valid, out); };
    sm80::store_through_norm<Part, true>(valid, x, norm_backward, wants_scale_grad, add,
                                         to.view.data != nullptr, store, out);
  }
};

}  // namespace cottention::sm80
