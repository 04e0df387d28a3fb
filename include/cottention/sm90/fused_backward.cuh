// What the warpgroups of the kernel that makes dq, dk and dv together share (gradient.cuh): its parameters,
// its shared memory, and the order of its walk.
#pragma once

#include <concepts>
#include <cstdint>

#include <cottention/kernel/dq_error_bound.cuh>
#include <cottention/sm90/row_pairs.cuh>

namespace cottention::sm90 {

/// Whether there is a kernel that makes all gradients. Two states and their operands take the registers of a
/// warpgroup up to dim 64.
template <AnyProblem P>
inline constexpr bool has_fused_backward =
    sizeof(typename P::element) == 2 && P::mask == Mask::causal&& P::head_dim == HeadDim{64, 64};

/// Maps have the tensors' dimensions, as those of RecurrenceParams; tiles of outputs are 16 rows, a warp's.
/// Partial states: of dq are S after each piece, H^T (v, k), read where final_h does not have it; of dk are D
/// behind each piece, as Walk of dk reads them, null where no sequence is cut.
template <AnyProblem P>
struct GradientParams : kernel::GradientParams<P> {
  device::TensorMap q_map, k_map, v_map, g_map, dq_map, dk_map, dv_map;
};

template <AnyProblem P, Tiling tiling>
struct GradientBlock {
  static_assert(has_fused_backward<P>);
  using T = typename P::element;
  using Output = recurrence::Output;
  static constexpr int dim = P::head_dim.qk;
  static constexpr int groups = 4, threads = 128 * groups;
  static constexpr bool weighs_queries = P::scale == Scale::by_query;
  /// Whether factors of terms need no power of two of their own: in half, where they have weights, they do.
  static constexpr bool bounds_factors = !std::same_as<T, half>;
  /// The first warpgroup measures the rows that have weights: dv's measures k, which it has in registers, and
  /// dq's measures queries.
  static constexpr Output first_output = weighs_queries ? Output::dq : Output::dv,
                          second_output = weighs_queries ? Output::dk : Output::dq,
                          third_output = weighs_queries ? Output::dv : Output::dk;

  using Params = GradientParams<P>;
  using Rows = Tile<T, dim>;
  using Pair = RowPair<T, dim>;
  using Pairs = PairRing<Pair, tiling.stages>;
  using State = sm90::State<T, HeadDim{dim, dim}>;
  using PublishedState = TwoWayStateTile<T, dim>;
  using ErrorBound = kernel::DqErrorBound<P, threads, 128>;
  using Weights = kernel::PositionWeights<P, recurrence::Direction::reverse, chunk_rows,
                                          threads / device::warp_size, true>;
  template <Output output>
  using Roles = kernel::Roles<P, output>;
  using Head = sm90::Head<Roles<Output::dq>, tiling>;

  using Position = sm90::Position<tiling.stages>;
  struct Storage {
    int pieces;       // of the sequence
    int order;        // of the piece
    int chunks;       // of the piece
    int last_row;     // of its last chunk
    Position loaded;  // the next one to load; its thread has no registers for it
    HeadSide of_queries, of_keys;
    Pairs queries, keys;  // of q and g, and of k and v
    Rows outputs[3];
    OutputFactors query_factors, key_factors[tiling.stages];  // of dq's and dk's rows
    double scale_grad[threads];                               // (threads)
    int leading_keys_end, leading_queries_end;                // of tile::LeadingChunks
    PublishedState s, d;                                      // S^T (v, k) and D (q, g)
    Ring<1> s_barriers, d_barriers;
    kernel::CountStorage<float, threads / device::warp_size, true> counts;
    ErrorBound dq_error;
  };

  /// Writes which chunks of the piece's walk over `terms` are leading ones. Scope: warp, before a barrier;
  /// one does it.
  template <recurrence::Direction direction>
  static __device__ __forceinline__ void find_leading(int warp, const Head& head,
                                                      const tile::SequenceSide& terms, int& end_shared) {
    if (device::warp_index() != warp) return;
    const auto found =
        tile::LeadingChunks<chunk_rows, direction>::find(terms.mask, head.first, head.last, terms.length);
    if (lane_index() == 0) device::store_shared(&end_shared, found.end);
  }
  static __device__ __forceinline__ bool within(const Storage& storage, const Position& at) {
    return at.chunks < device::load_shared(&storage.chunks);
  }
  static __device__ __forceinline__ int row_of(const Storage& storage, const Position& at) {
    return device::load_shared(&storage.last_row) - at.chunks * chunk_rows;
  }
  static __device__ __forceinline__ std::int64_t state_offset() {
    return std::int64_t{device::opaque(device::block_x())} * dim * dim;
  }

  static __device__ __forceinline__ void init(const Head& head, Storage& storage) {
    storage.of_queries.set(head.rows, head.kv_head * head.group, head.batch);
    storage.of_keys.set(head.terms, head.kv_head, head.batch);
    const int chunks = (head.last - head.first + chunk_rows - 1) / chunk_rows;
    device::store_shared(&storage.pieces, head.pieces.count);
    device::store_shared(&storage.order, head.order);
    device::store_shared(&storage.chunks, chunks);
    device::store_shared(&storage.last_row, head.first + (chunks - 1) * chunk_rows);
    device::store_shared(&storage.loaded, Position{});
    storage.queries.init(4 * groups);
    storage.keys.init(4 * groups);
    storage.s_barriers.init(4, 4);
    storage.d_barriers.init(4, 8);
    if constexpr (std::same_as<T, half>)  // terms have their weights in full
      for (auto* pairs : {storage.queries.pairs, storage.keys.pairs})
        for (int i = 0; i < tiling.stages; ++i) device::store_shared(&pairs[i].terms.weight, 1.0f);
    device::fence_mbarrier_init();
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
};

}  // namespace cottention::sm90
