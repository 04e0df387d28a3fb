// All gradients of one head in one pass over its chunks, causal: dq, dk and dv from tiles of q, k, v and g
// that are read once.
//
// The walk runs in reverse, as dk and dv have it, with the sum D of terms q g^T behind it. dq wants S, the
// sum of k v^T ahead of it. Nothing decays, so that is known too: S at the end of the sequence is the final
// state, and each chunk takes its own terms out of it. What the rounding of all that leaves in dq is bounded
// at the end; where it could be seen, the head is marked, and Walk does its dq again, which sums S from the
// start.
#pragma once

#include <cottention/kernel/factors.cuh>
#include <cottention/kernel/log_sum.cuh>
#include <cottention/kernel/reduce.cuh>
#include <cottention/tile/chunk.cuh>
#include <cottention/tile/projection.cuh>

namespace cottention::kernel {

/// Whether there are kernels that make all gradients together: three states have to be held.
template <AnyProblem P>
inline constexpr bool has_joint_gradient =
    sizeof(typename P::element) == 2 && P::head_dim.qk == P::head_dim.v&& P::head_dim.qk <= 64;

template <AnyProblem P>
struct GradientParams {
  using T = typename P::element;
  RecurrenceParams<T> dq, dk, dv;          // of each alone, sequences not cut, heads not in groups
  const Accumulate<T>* final_h = nullptr;  // null: summed here first
  int* marks = nullptr;                    // [unit], whether dq is to be done again
};

/// The parts of joint gradients: one tile serves each tensor whoever plays, as all have the same columns.
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
  /// Half's range is narrow, so rows of g and v are brought to lengths near 1 too.
  static constexpr bool tames_all = Dq::tames_all;
};

/// What a chunk's rows are multiplied by, in shared memory. Rows of q and k also have their Projection.
template <class Part>
struct GradientFactors {
  using A = typename Part::A;
  alignas(16) A g[Part::chunk], v[Part::chunk];                     // to a length near 1, or 1
  alignas(16) A query_term[Part::chunk], key_term[Part::chunk];     // of q g^T and of k v^T
  alignas(16) A dq[Part::chunk], dk[Part::chunk], dv[Part::chunk];  // of the outputs
};

template <AnyProblem P, Tiling tiling>
struct Gradient {
  using Roles = JointRoles<P, tiling>;
  using Part = typename Roles::Part;
  using State = typename Roles::State;
  using T = typename Part::T;
  using A = typename Part::A;
  static constexpr int threads = Part::threads;
  static constexpr int blocks_per_multiprocessor = tiling.blocks;

  using Params = GradientParams<P>;
  struct ChunkTiles {
    typename Roles::Tile q, k, v, g;
  };
  /// Row 0 of each tensor: lanes have no room to keep them.
  struct Rows {
    const T *q, *k, *v, *g;
    T *dq, *dk, *dv;
  };
  struct WalkStorage {
    Rows rows;
    ChunkTiles chunk[Part::stages];
    typename Part::ScoreTile dq_scores, dk_scores, dv_scores;
    GradientFactors<Part> factors;
    tile::Projection<Part> q, k;
    CountStorage<A, Part::warps> counts;
    alignas(16) double log_sums[Part::chunk];  // of each row of all chunks; lanes have no room for them
  };
  union Storage {
    ReduceStorage<typename Roles::Dq, tiling> reduce;
    WalkStorage walk;
  };

  static __device__ void run(const Params& params, Storage& storage) {
    const Head<typename Roles::Dq, tiling> queries(params.dq);
    const Head<typename Roles::Dk, tiling> keys(params.dk);
    State s;
    if (params.final_h != nullptr) {
      s.load(params.final_h + queries.state_offset, params.dq.layout, 0);
    } else {
      ChunkFactors<typename Roles::Dq, tiling> factors(queries, storage.reduce.factors);
      start_state(queries, s);
      reduce_piece(queries, factors, s, storage.reduce);
      device::sync_block();  // tiles of terms are read; their memory is used again
    }
    Block block(params, queries, keys, s, storage.walk);
    block.walk();
  }

 private:
  static constexpr bool weighs_keys = P::scale == Scale::by_key, weighs_queries = P::scale == Scale::by_query;
  static constexpr tile::Direction forward = tile::Direction::forward, reverse = tile::Direction::reverse;

  struct Block {
    const Params& params;
    const Head<typename Roles::Dq, tiling>& queries;
    const Head<typename Roles::Dk, tiling>& keys;
    State& s;  // (dim_v, dim_qk): what comes before the chunks that have been walked
    WalkStorage& storage;
    State d_by_v, d_by_q;  // (dim_v, dim_qk) for dk and (dim_qk, dim_v) for dv: what comes after the chunk
    PositionWeights<P, reverse, Part::chunk, Part::warps> weights;
    float s_squares = 0, g_squares = 0, dq_squares = 0;  // of this lane, for the bound on dq

    __device__ __forceinline__ Block(const Params& p, const Head<typename Roles::Dq, tiling>& q,
                                     const Head<typename Roles::Dk, tiling>& k, State& state,
                                     WalkStorage& memory)
        : params(p),
          queries(q),
          keys(k),
          s(state),
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
      for (int row = device::thread_index(); row < Part::chunk; row += Part::threads) {
        device::store_shared(memory.factors.g + row, A{1});
        device::store_shared(memory.factors.v + row, A{1});
        device::store_shared(memory.log_sums + row, 0.0);
      }
      if (device::thread_index() == 0) {
        Rows& rows = memory.rows;
        device::store_shared(&rows.q, q.projected(0).data);
        device::store_shared(&rows.k, k.projected(0).data);
        device::store_shared(&rows.v, k.a(0).data);
        device::store_shared(&rows.g, q.a(0).data);
        device::store_shared(&rows.dq, q.out(0).data);
        device::store_shared(&rows.dk, k.out(0).data);
        device::store_shared(&rows.dv, k.rows.rows(p.dv.out, k.batch, k.kv_head).data);
      }
      observe_state();
      device::sync_block();  // addresses are written
    }

    __device__ __forceinline__ void walk() {
      const auto copy = [&](const auto& at) {
        ChunkTiles& to = storage.chunk[at.stage];
        copy_rows(queries.rows, storage.rows.q, params.dq.projected.seq, at.row, to.q);
        copy_rows(keys.rows, storage.rows.k, params.dk.projected.seq, at.row, to.k);
        copy_rows(keys.rows, storage.rows.v, params.dk.a.seq, at.row, to.v);
        copy_rows(queries.rows, storage.rows.g, params.dq.a.seq, at.row, to.g);
      };
      const auto prepare = [&](const auto& at) { weights.begin_chunk(at.row); };
      const auto compute = [&](const auto& at) { step(at.row, storage.chunk[at.stage]); };
      tile::for_each_step<Part::stages, Part::chunk, reverse>(keys.first, keys.last, 1, copy, prepare,
                                                              compute);
      if (params.dv.final_h != nullptr)
        d_by_q.store(params.dv.final_h + keys.state_offset, tile::StateLayout::as_is, 0);
      double* const log_sums = weighs_keys ? params.dk.log_sums : params.dq.log_sums;
      if (log_sums != nullptr) {
        double sum = 0;  // a row has had the same thread all along
        for (int r = device::thread_index(); r < Part::chunk; r += Part::threads)
          sum += device::load_shared(storage.log_sums + r);
        store_log_sum<Part::warps>(log_sums, 1, sum, storage.counts.scratch);
      }
      mark();
    }

    __device__ __forceinline__ void step(int row, ChunkTiles& chunk) {
      measure(chunk);
      device::sync_block();  // factors are written, rows of extreme length rescaled
      const GradientFactors<Part>& factors = storage.factors;
      int key_exponent = 0, query_exponent = 0;
      if constexpr (Roles::tames_all) {
        key_exponent = exponent_of_factors<Part::chunk>(factors.key_term);
        query_exponent = exponent_of_factors<Part::chunk>(factors.query_term);
      }
      const A key_weight = weighs_keys && weights.scaled() ? weights.weight() : A{1};
      const A query_weight = weighs_queries && weights.scaled() ? weights.weight() : A{1};
      const A from_keys = device::times_power_of_two(A{1}, -key_exponent);
      const A from_queries = device::times_power_of_two(A{1}, -query_exponent);
      const A to_keys = device::times_power_of_two(key_weight, key_exponent);
      const A to_queries = device::times_power_of_two(query_weight, query_exponent);

      score<forward>(chunk.g, chunk.v, factors.g, factors.key_term, from_keys, storage.dq_scores);
      score<reverse>(chunk.v, chunk.g, factors.v, factors.query_term, from_queries, storage.dk_scores);
      score<reverse>(chunk.k, chunk.q, storage.k.unit, factors.query_term, from_queries, storage.dv_scores);
      typename Part::Output out;
      {  // dq
        const typename Part::Values k = load(chunk.k);
        s.absorb(chunk.v, k, factors.key_term, key_exponent, -key_weight);  // taken out
        observe_state();
        s.apply(chunk.g, out);
        tile::scale_rows<Part>(out, factors.g, device::quotient(A{1}, to_keys));
        device::sync_block();  // scores are written
        attend<forward>(storage.dq_scores, chunk.k, k, out);
        tile::scale_rows<Part>(out, factors.dq, to_keys);
        observe(out);
        project(queries.rows, params.dq.out, storage.rows.dq, row, chunk.q, storage.q,
                weighs_queries && params.dq.log_sums != nullptr, out);
      }
      {  // dk
        const typename Part::Values q = load(chunk.q);
        d_by_v.apply(chunk.v, out);
        tile::scale_rows<Part>(out, factors.v, device::quotient(A{1}, to_queries));
        attend<reverse>(storage.dk_scores, chunk.q, q, out);
        tile::scale_rows<Part>(out, factors.dk, to_queries);
        project(keys.rows, params.dk.out, storage.rows.dk, row, chunk.k, storage.k,
                weighs_keys && params.dk.log_sums != nullptr, out);
        d_by_v.absorb(chunk.g, q, factors.query_term, query_exponent, query_weight);
      }
      {  // dv
        const typename Part::Values g = load(chunk.g);
        d_by_q.apply(chunk.k, out);
        tile::scale_rows<Part>(out, storage.k.unit, device::quotient(A{1}, to_queries));
        attend<reverse>(storage.dv_scores, chunk.g, g, out);
        tile::scale_rows<Part>(out, factors.dv, to_queries);
        if (params.dv.out.data != nullptr)
          store(keys.rows, storage.rows.dv, params.dv.out.seq, row, P::head_dim.v,
                tile::Presence<Part::chunk>::load(keys.rows.mask, row, keys.rows.length), out);
        d_by_q.absorb(chunk.q, g, factors.query_term, query_exponent, query_weight);
      }
    }

    /// Norms and weights of a chunk. What is written is there for all after the next barrier.
    __device__ __forceinline__ void measure(ChunkTiles& chunk) {
      GradientFactors<Part>& factors = storage.factors;
      weights.enter_chunk();
      // A row falls to the same thread in all tiles.
      storage.q.measure(chunk.q, [&](int r, const tile::Length<A>& length) {
        const A relative = weighs_queries ? weights.relative(r) : A{1};
        device::store_shared(factors.query_term + r, length.unit() * relative);
        device::store_shared(factors.dq + r,
                             weighs_queries && weights.scaled() ? weights.weight() * relative : A{1});
      });
      storage.k.measure(chunk.k, [&](int r, const tile::Length<A>& length) {
        const A relative = weighs_keys ? weights.relative(r) : A{1};
        const A weight = weighs_keys && weights.scaled() ? weights.weight() * relative : A{1};
        device::store_shared(factors.key_term + r, length.unit() * relative);
        device::store_shared(factors.dk + r, weight);
        device::store_shared(factors.dv + r, weight);
      });
      if constexpr (Roles::tames_all) {
        const auto tame = [](typename Roles::Tile& tile, A* row, A* term, A* output, float& squares) {
          tile::measure_rows<threads>(tile, [=, &squares](int r, const tile::Length<A>& length) {
            const A length_in_output = device::load_shared(output + r) * length.length();
            device::store_shared(row + r, length.unit());
            device::store_shared(term + r,
                                 device::times_power_of_two(device::load_shared(term + r), length.exponent));
            device::store_shared(output + r, length_in_output);
            squares = device::fused(length_in_output, length_in_output, squares);
          });
        };
        [[maybe_unused]] float v_squares = 0;
        tame(chunk.g, factors.g, factors.query_term, factors.dq, g_squares);
        tame(chunk.v, factors.v, factors.key_term, factors.dk, v_squares);
      } else {
        const float weight = weighs_queries && weights.scaled() ? weights.weight() : A{1};
        g_squares = device::fused(tile::lane_squares<threads>(chunk.g), weight * weight, g_squares);
      }
    }

    static __device__ __forceinline__ void copy_rows(const Side& side, const T* const& data_shared,
                                                     std::int64_t stride, int row, typename Roles::Tile& to) {
      const tile::Rows<const T> rows{device::load_shared(&data_shared), stride, side.length, side.mask};
      tile::copy_rows_async<threads>(rows, row, 0, P::head_dim.v, to);
    }
    static __device__ __forceinline__ void store(const Side& side, T* const& data_shared, std::int64_t stride,
                                                 int row, int dim, const tile::Presence<Part::chunk>& present,
                                                 const typename Part::Output& out) {
      const tile::Rows<T> rows{device::load_shared(&data_shared), stride, side.length, side.mask};
      tile::store_output<Part>(rows, row, 0, dim, present, out);
    }

    __device__ __forceinline__ void project(const Side& side, const View<T>& view, T* const& data_shared,
                                            int row, const typename Roles::Tile& x,
                                            tile::Projection<Part>& projection, bool sums_logs,
                                            typename Part::Output& out) {
      const auto present = tile::Presence<Part::chunk>::load(side.mask, row, side.length);
      projection.multiply(x, out);
      device::sync_block();  // products of the warps' columns are written
      if (sums_logs)
        for (int r = device::thread_index(); r < Part::chunk; r += Part::threads)
          if (present.contains(r))
            device::store_shared(storage.log_sums + r, device::load_shared(storage.log_sums + r) +
                                                           static_cast<double>(weights.log_count(r)) *
                                                               static_cast<double>(projection.along(r)));
      if (view.data == nullptr) return;
      projection.project(x, out);
      store(side, data_shared, view.seq, row, P::head_dim.qk, present, out);
    }

    // ---- the bound on dq: |E| times the length of all g, where E is what rounding has left in S. The terms
    // of each chunk are taken out with a relative error of `term_error`, and the sum is rounded each time.

    static constexpr bool is_half = std::same_as<T, half>;
    /// Of the split operands, 2 x 9 bits or 2 x 11, and the rounded sum of a chunk.
    static constexpr double term_error = is_half ? 0x1p-20 : 0x1p-17;
    /// Of fp32.
    static constexpr double sum_error = 0x1p-24;
    /// Of the length of dq: half the room that the rounding of dq itself leaves below its accuracy.
    static constexpr double allowed_error = is_half ? 0x1p-12 : 0x1p-9;

    __device__ __forceinline__ void observe_state() {
      const float x = s.squares();
      s_squares = x > s_squares || !device::is_finite(x) ? x : s_squares;
    }
    __device__ __forceinline__ void observe(typename Part::Output& out) {
      tile::for_each_sum<Part>(out, [this](A& x, int, int) { dq_squares = device::fused(x, x, dq_squares); });
    }

    /// Marks the head unless the bound is within what is allowed; whatever is not finite is not.
    __device__ __forceinline__ void mark() {
      const double s_total = sum_over_block<Part::warps>(s_squares, storage.counts.scratch);
      const double g_total = sum_over_block<Part::warps>(g_squares, storage.counts.scratch);
      const double dq_total = sum_over_block<Part::warps>(dq_squares, storage.counts.scratch);
      if (device::thread_index() != 0) return;
      const int chunks = (keys.last - keys.first + Part::chunk - 1) / Part::chunk;
      const double error = term_error * term_error + chunks * (sum_error * sum_error);
      const bool fine = error * s_total * g_total <= allowed_error * allowed_error * dq_total;
      device::store_global(params.marks + device::block_x(), fine ? 0 : 1);
    }
  };

  template <tile::Direction direction>
  static __device__ __forceinline__ void score(const typename Roles::Tile& a, const typename Roles::Tile& b,
                                               const A* row, const A* term, A scale,
                                               typename Part::ScoreTile& scores) {
    tile::score<typename Roles::Recurrence, tiling, direction>(a, b, row, term, scale, scores);
  }
  template <tile::Direction direction>
  static __device__ __forceinline__ void attend(const typename Part::ScoreTile& scores,
                                                const typename Roles::Tile& tile,
                                                const typename Part::Values& values,
                                                typename Part::Output& out) {
    tile::attend<typename Roles::Recurrence, tiling, direction>(scores, tile, values, out);
  }
  static __device__ __forceinline__ typename Part::Values load(const typename Roles::Tile& tile) {
    return tile::load_values<typename Roles::Recurrence, tiling>(tile);
  }
};

}  // namespace cottention::kernel
