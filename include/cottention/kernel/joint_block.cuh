// What the kernels that make dq, dk and dv together share. One tile serves each of q, k, v and g whoever
// plays, and is read from memory once.
#pragma once

#include <cottention/kernel/factors.cuh>
#include <cottention/kernel/log_sum.cuh>
#include <cottention/kernel/reduce.cuh>
#include <cottention/tile/projection.cuh>

namespace cottention::kernel {

/// Whether there are kernels that make all gradients together: three states have to be held.
template <AnyProblem P>
inline constexpr bool has_joint_gradient =
    sizeof(typename P::element) == 2 && P::head_dim == HeadDim{P::head_dim.qk, P::head_dim.qk} &&
    P::head_dim.qk <= 64;

/// Blocks: x = batch index * heads_kv + key/value head.
template <AnyProblem P>
struct GradientParams {
  using T = typename P::element;
  RecurrenceParams<T> dq, dk, dv;          // of each alone; no sequence is cut, and no causal head in a group
  const Accumulate<T>* final_h = nullptr;  // null: summed here first
  int* marks = nullptr;                    // [unit], whether dq is to be done again
};

/// Roles of all gradients at a time. All tiles have the same columns, so that one serves whoever plays.
template <AnyProblem P, Tiling tiling>
struct JointRoles {
  using Dq = Roles<P, Output::dq>;
  using Dk = Roles<P, Output::dk>;
  using Dv = Roles<P, Output::dv>;
  using Recurrence = typename Dq::Recurrence;
  using Part = tile::Partition<Recurrence, tiling>;
  using State = tile::State<Recurrence, tiling>;
  using Tile = typename Part::RowTile;
  static_assert(
      has_joint_gradient<P> && std::same_as<Recurrence, typename Dv::Recurrence> &&
          std::same_as<Tile, typename Part::ValueTile>,
      "cottention: joint gradients hold all columns in a block. Remedy: a Tiling with columns = dim_qk "
      "rounded up to 16.");
  /// Half's range is narrow, so factors bring rows of g and v to length 1 too.
  static constexpr bool tames_all = Dq::tames_all;
};

/// What a chunk's rows are multiplied by, in shared memory. Rows of q and k also have their Projection.
template <class Part>
struct GradientFactors {
  using A = typename Part::A;
  alignas(16) A g[Part::chunk], v[Part::chunk];                     // to length 1, or 1
  alignas(16) A query_term[Part::chunk], key_term[Part::chunk];     // of q g^T and of k v^T
  alignas(16) A dq[Part::chunk], dk[Part::chunk], dv[Part::chunk];  // of the outputs
  alignas(16) A g_lengths[Part::chunk];                             // of weighted rows
};

/// Row 0 of each tensor, of the first query head: lanes have no room to keep them.
template <Element T>
struct JointRows {
  const T *q, *k, *v, *g;
  T *dq, *dk, *dv;
};

/// In shared memory.
template <AnyProblem P, Tiling tiling>
struct JointStorage {
  using Part = typename JointRoles<P, tiling>::Part;
  using A = typename Part::A;
  JointRows<typename Part::T> rows;
  GradientFactors<Part> factors;
  tile::Projection<Part> q, k;
  CountStorage<A, Part::warps> counts;
  alignas(16) double log_sums[Part::chunk];  // of each row of all chunks; lanes have no room for them either
};

/// The sums of terms, and what becomes of a chunk's rows.
template <AnyProblem P, Tiling tiling>
class JointBlock {
 public:
  using Roles = JointRoles<P, tiling>;
  using Part = typename Roles::Part;
  using State = typename Roles::State;
  using Tile = typename Roles::Tile;
  using T = typename Part::T;
  using A = typename Part::A;
  using Queries = Head<typename Roles::Dq, tiling>;
  using Keys = Head<typename Roles::Dk, tiling>;
  static constexpr int threads = Part::threads;
  static constexpr bool weighs_keys = P::scale == Scale::by_key, weighs_queries = P::scale == Scale::by_query;

  const GradientParams<P>& params;
  const Queries& queries;
  const Keys& keys;
  JointStorage<P, tiling>& storage;
  State d_by_v, d_by_q;  // D, the sum of q g^T: (dim_v, dim_qk) for dk and (dim_qk, dim_v) for dv
  PositionWeights<P, Roles::Dk::direction, Part::chunk, Part::warps> weights;
  // Of rows that fell to this lane, for the bound on dq: weighted rows of g over the lengths of their q, and
  // weighted rows of v; by query, of the terms of the gradient of m, and of weighted rows of g as they enter
  // it.
  float g_squares = 0, v_squares = 0, log_squares = 0, g_log_squares = 0;

  /// S, (dim_v, dim_qk): all of it.
  static __device__ __forceinline__ void load_state(const GradientParams<P>& params, const Queries& queries,
                                                    State& s,
                                                    ReduceStorage<typename Roles::Dq, tiling>& storage) {
    if (params.final_h != nullptr) {
      s.load(params.final_h + queries.state_offset, params.dq.layout, 0);
    } else {
      ChunkFactors<typename Roles::Dq, tiling> factors(queries, storage.factors);
      start_state(queries, s);
      reduce_piece(queries, factors, s, storage);
      device::sync_block();  // tiles of terms are read; their memory is used again
    }
  }

  /// By the whole block, like all that follows.
  __device__ __forceinline__ JointBlock(const GradientParams<P>& p, const Queries& q, const Keys& k,
                                        JointStorage<P, tiling>& memory)
      : params(p),
        queries(q),
        keys(k),
        storage(memory),
        weights(p.dk, k.batch, k.kv_head, k.keys(), k.first, k.last, memory.counts) {
    const A* dfinal = p.dk.initial_h;
    if (dfinal != nullptr) {
      d_by_v.load(dfinal + k.state_offset, tile::StateLayout::transposed, 0);
      d_by_q.load(dfinal + k.state_offset, tile::StateLayout::as_is, 0);
    } else {
      d_by_v.set_zero();
      d_by_q.set_zero();
    }
    for (int row = device::thread_index(); row < Part::chunk; row += threads) {
      device::store_shared(memory.factors.g + row, A{1});
      device::store_shared(memory.factors.v + row, A{1});
      device::store_shared(memory.log_sums + row, 0.0);
    }
    if (device::thread_index() == 0) {
      JointRows<T>& rows = memory.rows;
      device::store_shared(&rows.q, q.projected(0).data);
      device::store_shared(&rows.k, k.projected(0).data);
      device::store_shared(&rows.v, k.a(0).data);
      device::store_shared(&rows.g, q.a(0).data);
      device::store_shared(&rows.dq, q.out(0).data);
      device::store_shared(&rows.dk, k.out(0).data);
      device::store_shared(&rows.dv, k.rows.rows(p.dv.out, k.batch, k.kv_head).data);
    }
    device::sync_block();  // addresses are written
  }

  // ---- rows in and out; members are query heads of the group

  __device__ __forceinline__ void copy_queries(int member, int row, Tile& q, Tile& g) const {
    copy(queries.rows, storage.rows.q, params.dq.projected, member, row, q);
    copy(queries.rows, storage.rows.g, params.dq.a, member, row, g);
  }
  __device__ __forceinline__ void copy_keys(int row, Tile& k, Tile& v) const {
    copy(keys.rows, storage.rows.k, params.dk.projected, 0, row, k);
    copy(keys.rows, storage.rows.v, params.dk.a, 0, row, v);
  }

  /// dq of rows row, ... from the gradient with respect to their norm(q).
  __device__ __forceinline__ void store_dq(int member, int row, const Tile& q, typename Part::Output& out) {
    project(queries.rows, storage.rows.dq, params.dq.out, member, row, q, storage.q,
            weighs_queries && params.dq.log_sums != nullptr, out);
  }
  __device__ __forceinline__ void store_dk(int row, const Tile& k, typename Part::Output& out) {
    project(keys.rows, storage.rows.dk, params.dk.out, 0, row, k, storage.k,
            weighs_keys && params.dk.log_sums != nullptr, out);
  }
  __device__ __forceinline__ void store_dv(int row, const typename Part::Output& out) const {
    if (params.dv.out.data == nullptr) return;
    const auto present = tile::Presence<Part::chunk>::load(keys.rows.mask, row, keys.rows.length);
    store(keys.rows, storage.rows.dv, params.dv.out, 0, row, present, out);
  }
  /// At the end of a head.
  __device__ __forceinline__ void store_sums() {
    if (params.dv.final_h != nullptr)
      d_by_q.store(params.dv.final_h + keys.state_offset, tile::StateLayout::as_is, 0);
    double* const log_sums = weighs_keys ? params.dk.log_sums : params.dq.log_sums;
    if (log_sums == nullptr) return;
    double sum = 0;  // a row has had the same thread all along
    for (int r = device::thread_index(); r < Part::chunk; r += threads)
      sum += device::load_shared(storage.log_sums + r);
    store_log_sum<Part::warps>(log_sums, 1, sum, storage.counts.scratch);
  }

  // ---- norms and weights; what is written is there for all after the next barrier. A row falls to the same
  // thread in all tiles.

  __device__ __forceinline__ void measure_queries(Tile& q, Tile& g) {
    GradientFactors<Part>& factors = storage.factors;
    const auto write_q = [&](int r, const tile::Length<A>& of_q) {
      const A relative = weighs_queries ? weights.relative(r) : A{1};
      storage.q.set(r, of_q);
      device::store_shared(factors.query_term + r, of_q.unit() * relative);
      device::store_shared(factors.dq + r, query_weight() * relative);
    };
    const auto write_g = [&](int r, const tile::Length<A>& of_g) {
      const A weighted = device::load_shared(factors.dq + r) * of_g.length();
      const A in_dq = weighted * device::load_shared(storage.q.inverse + r);
      g_squares = device::fused(in_dq, in_dq, g_squares);
      device::store_shared(factors.g_lengths + r, weighted);
      if constexpr (Roles::tames_all) {
        device::store_shared(factors.g + r, of_g.unit());
        device::store_shared(factors.dq + r, weighted);
      }
    };
    measure(g, q, write_g, write_q);
  }
  __device__ __forceinline__ void measure_keys(Tile& k, Tile& v) {
    GradientFactors<Part>& factors = storage.factors;
    const auto write_k = [&](int r, const tile::Length<A>& of_k) {
      const A relative = weighs_keys ? weights.relative(r) : A{1};
      storage.k.set(r, of_k);
      device::store_shared(factors.key_term + r, of_k.unit() * relative);
      device::store_shared(factors.dk + r, key_weight() * relative);
      device::store_shared(factors.dv + r, key_weight() * relative);
    };
    const auto write_v = [&](int r, const tile::Length<A>& of_v) {
      const A weighted = device::load_shared(factors.dv + r) * of_v.length();
      v_squares = device::fused(weighted, weighted, v_squares);
      if constexpr (Roles::tames_all) {
        device::store_shared(factors.v + r, of_v.unit());
        device::store_shared(factors.dk + r, weighted);
      }
    };
    measure(v, k, write_v, write_k);
  }

  /// At the chunk's first row; those of the other rows relative to it are in the factors.
  __device__ __forceinline__ A key_weight() const {
    return weighs_keys && weights.scaled() ? weights.weight() : A{1};
  }
  __device__ __forceinline__ A query_weight() const {
    return weighs_queries && weights.scaled() ? weights.weight() : A{1};
  }
  /// Powers of two that bound the terms' factors, for half.
  __device__ __forceinline__ int key_exponent() const {
    return Roles::tames_all ? exponent_of_factors<Part::chunk>(storage.factors.key_term) : 0;
  }
  __device__ __forceinline__ int query_exponent() const {
    return Roles::tames_all ? exponent_of_factors<Part::chunk>(storage.factors.query_term) : 0;
  }

  static __device__ __forceinline__ typename Part::Values load(const Tile& tile) {
    return tile::load_values<typename Roles::Recurrence, tiling>(tile);
  }

 private:
  /// The lengths of y as it is, and of x, after it has been scaled where that is called for.
  template <class WriteY, class WriteX>
  static __device__ __forceinline__ void measure(Tile& y, Tile& x, WriteY write_y, WriteX write_x) {
    if constexpr (Roles::tames_all) {
      tile::measure_pairs<threads>(y, x,
                                   [&](int r, const tile::Length<A>& of_y, const tile::Length<A>& of_x) {
                                     write_x(r, of_x);
                                     write_y(r, of_y);
                                   });
    } else {
      tile::measure_rows<threads>(x, write_x);
      tile::read_lengths<threads>(y, write_y);
    }
  }

  static __device__ __forceinline__ void copy(const Side& side, const T* const& data_shared,
                                              const View<const T>& view, int member, int row, Tile& to) {
    const tile::Rows<const T> rows{device::load_shared(&data_shared) + member * view.head, view.seq,
                                   side.length, side.mask};
    tile::copy_rows_async<threads>(rows, row, 0, P::head_dim.v, to);
  }
  static __device__ __forceinline__ void store(const Side& side, T* const& data_shared, const View<T>& view,
                                               int member, int row,
                                               const tile::Presence<Part::chunk>& present,
                                               const typename Part::Output& out) {
    const tile::Rows<T> rows{device::load_shared(&data_shared) + member * view.head, view.seq, side.length,
                             side.mask};
    tile::store_output<Part>(rows, row, 0, P::head_dim.v, present, out);
  }

  __device__ __forceinline__ void project(const Side& side, T* const& data_shared, const View<T>& view,
                                          int member, int row, const Tile& x,
                                          tile::Projection<Part>& projection, bool sums_logs,
                                          typename Part::Output& out) {
    const auto present = tile::Presence<Part::chunk>::load(side.mask, row, side.length);
    projection.multiply(x, out);
    device::sync_block();  // products of the warps' columns are written
    if (sums_logs)
      for (int r = device::thread_index(); r < Part::chunk; r += threads) {
        if (!present.contains(r)) continue;
        const A log = weights.log_count(r), term = log * projection.along(r);
        device::store_shared(storage.log_sums + r,
                             device::load_shared(storage.log_sums + r) + static_cast<double>(term));
        if constexpr (weighs_queries) {
          const A g = log * device::load_shared(storage.factors.g_lengths + r);
          log_squares = device::fused(term, term, log_squares);
          g_log_squares = device::fused(g, g, g_log_squares);
        }
      }
    if (view.data == nullptr) return;
    projection.project(x, out);
    store(side, data_shared, view, member, row, present, out);
  }
};

}  // namespace cottention::kernel
