// What the kernels over heads share: which rows a block works on, and what its chunks' rows are multiplied
// by.
#pragma once

#include <cottention/kernel/sequence.cuh>
#include <cottention/tile/combine.cuh>
#include <cottention/tile/counts.cuh>
#include <cottention/tile/norms.cuh>
#include <cottention/tile/pipeline.cuh>
#include <cottention/tile/state.cuh>

namespace cottention::kernel {

/// The state of a piece, of block x's head and a block of columns.
template <AnyProblem P, Tiling tiling>
__device__ __forceinline__ Accumulate<typename P::element>* image_of(
    const ForwardParams<typename P::element>& params, int column_block, int piece) {
  constexpr int column_blocks = (P::head_dim.v + tiling.columns - 1) / tiling.columns;
  const std::int64_t unit = std::int64_t{device::block_x()} * column_blocks + column_block;
  return params.images + (unit * params.pieces + piece) * tile::State<P, tiling>::image_elements;
}

/// The block's part of one key/value head of one sequence.
template <AnyProblem P, Tiling tiling>
struct Head {
  using T = typename P::element;
  using A = Accumulate<T>;
  using State = tile::State<P, tiling>;

  const ForwardParams<T>& params;
  std::int64_t batch;
  int kv_head, group, piece, column;
  Side queries, keys;
  Pieces pieces;    // of the keys
  int first, last;  // rows of this piece
  std::int64_t state_offset;

  explicit __device__ __forceinline__ Head(const ForwardParams<T>& p)
      : params(p),
        batch(device::block_x() / p.heads_kv),
        kv_head(device::block_x() % p.heads_kv),
        group(p.heads_q > 0 ? p.heads_q / p.heads_kv : 1),
        piece(device::block_y()),
        column(device::block_z() * tiling.columns),
        queries(p.offsets_q, p.query_mask, batch, p.seq_q),
        keys(p.offsets_k, p.key_mask, batch, p.seq_k),
        pieces(keys.length, p.pieces, p.shortest, tiling.chunk),
        first(pieces.first(piece)),
        last(pieces.last(piece, keys.length)),
        state_offset(std::int64_t{device::block_x()} * P::head_dim.qk * P::head_dim.v) {
    if (p.heads_q == 0) queries.length = 0;  // the state alone is wanted: one query head, without queries
  }

  __device__ __forceinline__ tile::Rows<const T> q(int member) const {
    return queries.rows(params.q, batch, kv_head * group + member);
  }
  __device__ __forceinline__ tile::Rows<T> o(int member) const {
    return queries.rows(params.o, batch, kv_head * group + member);
  }
  __device__ __forceinline__ tile::Rows<const T> k() const { return keys.rows(params.k, batch, kv_head); }
  __device__ __forceinline__ tile::Rows<const T> v() const { return keys.rows(params.v, batch, kv_head); }

  /// The state of a piece of this sequence, of this block's columns.
  __device__ __forceinline__ A* image(int of_piece) const {
    return image_of<P, tiling>(params, device::block_z(), of_piece);
  }
};

/// k and v of a chunk.
template <class Part>
struct KeyTiles {
  typename Part::RowTile k;
  typename Part::ValueTile v;
};

template <AnyProblem P, Tiling tiling>
__device__ __forceinline__ void copy_keys(const Head<P, tiling>& head, int row,
                                          KeyTiles<tile::Partition<P, tiling>>& kv) {
  constexpr int threads = tile::Partition<P, tiling>::threads;
  tile::copy_rows_async<threads>(head.k(), row, 0, P::head_dim.qk, kv.k);
  tile::copy_rows_async<threads>(head.v(), row, head.column, P::head_dim.v, kv.v);
}

/// What rows of a chunk are multiplied by, in shared memory.
template <class Part>
struct Factors {
  using A = typename Part::A;
  alignas(16) A query[Part::chunk];  // norm(q) = query q
  alignas(16) A key[Part::chunk];  // norm(k) = key k; scaled by key, times the weight relative to the chunk's
  alignas(16) A output[Part::chunk];  // scaled by query: weights of the rows
  tile::ChunkTable<A> table;
  std::int64_t scratch[Part::warps];
};

/// Norms and weights of the current chunk. With w the weight at the chunk's first key, scaled by key,
///
///     o_i = query_i q_i H + w sum over j of (query_i q_i . k_j key_j) v_j          H += w sum of k_j (key_j
///     v_j)^T
///
/// so that what is rounded to the element type lies near 1 wherever the chunk lies in its sequence.
template <AnyProblem P, Tiling tiling>
class ChunkWeights {
 public:
  using Part = tile::Partition<P, tiling>;
  using A = typename Part::A;

  /// By the whole block.
  __device__ __forceinline__ ChunkWeights(const ForwardParams<typename Part::T>& params,
                                          const Head<P, tiling>& head, Factors<Part>& factors)
      : factors_(factors), mask_(head.keys.mask), length_(head.keys.length), first_(head.first) {
    scaled_ = P::scale != Scale::none && params.scale_logit != nullptr;
    if (!scaled_) return;
    exponent_ = tile::sigmoid(device::load_global(params.scale_logit + head.kv_head));
    before_table_ =
        params.initial_count != nullptr ? device::load_global(params.initial_count + head.batch) : 0;
    const auto sync = [] { device::sync_block(); };  // the warps' counts are written; they are read
    if constexpr (P::mask == Mask::causal) {
      before_table_ += tile::count_present<Part::warps>(mask_, 0, first_, factors.scratch, sync);
    } else {
      const std::int64_t n =
          before_table_ + tile::count_present<Part::warps>(mask_, 0, length_, factors.scratch, sync);
      weight_ = static_cast<A>(tile::weight(n, exponent_));
    }
  }

  /// Before the barrier that starts a chunk at `row`.
  __device__ __forceinline__ void begin_chunk(int row) {
    if (!scaled_ || P::mask != Mask::causal) return;
    entry_ = (row - first_) / Part::chunk % device::warp_size;
    if (entry_ == 0 && device::warp_index() == 0)
      before_table_ = factors_.table.fill(mask_, row, length_, Part::chunk, before_table_, exponent_);
    presence_ = tile::Presence<Part::chunk>::load(mask_, row, length_);
  }

  /// After it, once a chunk; what is written is there for all after the next barrier.
  __device__ __forceinline__ void measure_keys(typename Part::RowTile& k) {
    if (scaled_ && P::mask == Mask::causal) {
      before_ = device::load_shared(factors_.table.before + entry_);
      weight_ = device::load_shared(factors_.table.weight + entry_);
    }
    tile::measure_rows<Part::threads>(k, [this](int row, A inverse) {
      const A weight = P::scale == Scale::by_key ? relative_weight(row) : A{1};
      device::store_shared(factors_.key + row, inverse * weight);
    });
  }
  __device__ __forceinline__ void measure_queries(typename Part::RowTile& q) {
    tile::measure_rows<Part::threads>(q, [this](int row, A inverse) {
      device::store_shared(factors_.query + row, inverse);
      if (P::scale == Scale::by_query && scaled_ && P::mask == Mask::causal)
        device::store_shared(factors_.output + row, weight_ * relative_weight(row));
    });
  }

  /// What the chunk's sum is multiplied by when it joins the state.
  __device__ __forceinline__ A of_state() const {
    return P::scale == Scale::by_key && scaled_ ? weight_ : A{1};
  }

  /// out from raw q to the scale at which scores times v are added to it.
  __device__ __forceinline__ void scale_prefix(typename Part::Output& out) const {
    scale_rows(out, device::quotient(A{1}, of_state()));
  }

  /// Likewise, where nothing else is added.
  __device__ __forceinline__ void scale_answer(typename Part::Output& out) const { scale_rows(out, A{1}); }

  /// What rows row, ..., row + 15 of out are multiplied by in the end.
  __device__ __forceinline__ void output_factors(int row, A (&factors)[2]) const {
    const bool by_query = P::scale == Scale::by_query && scaled_;
    if (P::mask == Mask::bidirectional)
      factors[0] = factors[1] = by_query ? weight_ : A{1};  // scaled by key, the state has the weight
    else if (by_query)
      row_factors(factors_.output, row, factors);
    else
      factors[0] = factors[1] = of_state();
  }

 private:
  __device__ __forceinline__ void scale_rows(typename Part::Output& out, A scale) const {
#pragma unroll
    for (int i = 0; i < Part::row_blocks; ++i) {
      A factors[2];
      row_factors(factors_.query, 16 * i, factors);
      factors[0] *= scale;
      factors[1] *= scale;
#pragma unroll
      for (int m = 0; m < Part::warp_column_blocks; ++m)
#pragma unroll
        for (int e = 0; e < 8; ++e) out.sums[i][m][e / 4].values[e % 4] *= factors[e / 2 % 2];
    }
  }
  static __device__ __forceinline__ void row_factors(const A* factors_shared, int row, A (&factors)[2]) {
    const int g = device::lane_index() / 4;
    factors[0] = device::load_shared(factors_shared + row + g);
    factors[1] = device::load_shared(factors_shared + (row + g + 8) % Part::chunk);
  }
  __device__ __forceinline__ A relative_weight(int row) const {
    if (!scaled_ || P::mask != Mask::causal) return A{1};
    return tile::relative_weight<A>(before_ + 1, presence_.up_to(row) - 1, exponent_);
  }

  Factors<Part>& factors_;
  const std::uint8_t* mask_;
  int length_, first_;
  bool scaled_ = false;
  double exponent_ = 0;
  std::int64_t before_table_ = 0;  // unmasked keys before the next 32 chunks; warp 0 keeps it up
  std::int64_t before_ = 0;
  int entry_ = 0;
  A weight_{1};
  tile::Presence<Part::chunk> presence_{};
};

/// Rows row, ... of a query head of the group, from the warps that combine() left the sums with.
template <AnyProblem P, Tiling tiling>
__device__ __forceinline__ void store_output(const Head<P, tiling>& head, int member, int row,
                                             const ChunkWeights<P, tiling>& weights,
                                             const typename tile::Partition<P, tiling>::Output& out) {
  using Part = tile::Partition<P, tiling>;
  using T = typename P::element;
  if (Part::depth_index() != 0) return;
  const tile::Rows<T> o = head.o(member);
  const auto present = tile::Presence<Part::chunk>::load(o.mask, row, o.length);
  const int g = device::lane_index() / 4;
#pragma unroll
  for (int i = 0; i < Part::row_blocks; ++i) {
    const bool keep[2] = {present.contains(16 * i + g), present.contains(16 * i + g + 8)};
    Accumulate<T> factors[2];
    weights.output_factors(16 * i, factors);
#pragma unroll
    for (int m = 0; m < Part::warp_column_blocks; ++m)
      tile::store_rows<Part::block_rows>(o, row + 16 * i, head.column + Part::warp_column() + 16 * m,
                                         P::head_dim.v, out.sums[i][m], factors, keep);
  }
}

}  // namespace cottention::kernel
