// The tiles of kernels that make more than one gradient: pairs of q and g, and of k and v, which are read
// from memory once and serve all outputs and states; and what a warp measures of them.
#pragma once

#include <cstdint>

#include <cottention/kernel/position_weights.cuh>
#include <cottention/sm90/measure.cuh>
#include <cottention/sm90/pipeline.cuh>
#include <cottention/sm90/state.cuh>
#include <cottention/tile/norm_backward.cuh>

namespace cottention::sm90 {

/// 64 rows of x, q or k, whose norms count, and of y, g or v.
template <Element T, int x_columns, int y_columns = x_columns>
struct RowPair {
  static constexpr int bytes = Tile<T, x_columns>::bytes + Tile<T, y_columns>::bytes;
  Tile<T, x_columns> x;
  Tile<T, y_columns> y;
  ChunkTerms<T> terms;                        // norms and weights of x's rows
  device::Vector<std::uint32_t, 4> findings;  // (warps)
};

/// What is found in a warp's rows, as bits of RowPair::findings.
namespace finding {
inline constexpr std::uint32_t x_not_finite = 1, y_not_finite = 2;
}
/// Scope: thread, once the pair is measured.
template <class Pair>
__device__ __forceinline__ std::uint32_t findings_of(const Pair& pair) {
  const auto found = device::load_shared(&pair.findings);
  return found[0] | found[1] | found[2] | found[3];
}

/// Pairs go round as the buffers of pipeline.cuh; between `full` and their first readers a warpgroup measures
/// them, each warp its rows, and arrives at `measured`.
template <class Pair, int stages>
struct PairRing {
  using Place = RingPlace<stages>;
  Pair pairs[stages];
  Ring<stages> barriers;
  device::Mbarrier measured[stages];

  /// readers: warps. Scope: thread; fence_mbarrier_init() and sync_block() must follow.
  __device__ __forceinline__ void init(int readers) {
    barriers.init(1, readers);
    for (device::Mbarrier& barrier : measured) device::mbarrier_init(&barrier, 4);
  }
  __device__ __forceinline__ Pair& at(Place place) { return pairs[place.index]; }
  /// Starts the loads of a pair once its buffer is empty. Scope: thread.
  __device__ __forceinline__ void load(Place place, const device::TensorMap& x_map,
                                       const device::TensorMap& y_map, Coordinates from) {
    barriers.wait_empty(place);
    device::Mbarrier* const full = barriers.full + place.index;
    device::mbarrier_arrive_expect_tx(full, Pair::bytes);
    load_panels(at(place).x, x_map, full, from);
    load_panels(at(place).y, y_map, full, from);
  }
  __device__ __forceinline__ void wait_measured(Place place) {
    device::mbarrier_wait(measured + place.index, place.parity);
  }
  /// An arrival of the warp. Scope: warp.
  __device__ __forceinline__ void arrive_measured(Place place) {
    device::sync_warp();
    if (lane_index() == 0) device::mbarrier_arrive(measured + place.index);
  }
};

/// What one warpgroup tells another of each pair, whether its y is finite.
template <int stages>
struct Told {
  device::Mbarrier barriers[stages];
  device::Vector<std::uint32_t, 4> not_finite[stages];  // (warps)

  /// Scope: thread; fence_mbarrier_init() and sync_block() must follow.
  __device__ __forceinline__ void init() {
    for (device::Mbarrier& barrier : barriers) device::mbarrier_init(&barrier, 4);
  }
  /// finite: as far as the lane knows. Scope: warp.
  __device__ __forceinline__ void tell(RingPlace<stages> place, bool finite) {
    const bool any = device::any_lane(!finite);
    if (lane_index() != 0) return;
    device::store_shared(reinterpret_cast<std::uint32_t*>(not_finite + place.index) + warp_in_group(),
                         any ? 1u : 0u);
    device::mbarrier_arrive(barriers + place.index);
  }
  /// Whether it is. Scope: thread.
  __device__ __forceinline__ bool wait(RingPlace<stages> place) {
    device::mbarrier_wait(barriers + place.index, place.parity);
    const auto found = device::load_shared(not_finite + place.index);
    return (found[0] | found[1] | found[2] | found[3]) == 0;
  }
};

/// The queries or the keys of the head, in shared memory.
struct HeadSide {
  const std::uint8_t* mask;
  int length, whole_end;  // whole_end: length, or 0 where positions may be masked
  int start, first_head, batch;

  /// Scope: thread, before a barrier.
  __device__ __forceinline__ void set(const tile::SequenceSide& side, int head, std::int64_t batch_index) {
    device::store_shared(&mask, side.mask);
    device::store_shared(&length, side.length);
    device::store_shared(&whole_end, side.mask == nullptr ? side.length : 0);
    device::store_shared(&start, static_cast<int>(side.start));
    device::store_shared(&first_head, head);
    device::store_shared(&batch, side.packed ? 0 : static_cast<int>(batch_index));
  }
  /// Whether all rows of the chunk exist and none can be masked.
  __device__ __forceinline__ bool is_whole(int row) const {
    return row + chunk_rows <= device::load_shared(&whole_end);
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
template <int stages>
struct alignas(8) Position {
  using Place = RingPlace<stages>;
  int chunks = 0;      // before it
  int group_head = 0;  // query head of the group

  __device__ __forceinline__ void advance(int group) {
    if (++group_head < group) return;
    group_head = 0;
    ++chunks;
  }
  __device__ __forceinline__ Place queries(int group) const {
    return in_ring(static_cast<unsigned>(chunks) * static_cast<unsigned>(group) +
                   static_cast<unsigned>(group_head));
  }
  __device__ __forceinline__ Place keys() const { return in_ring(static_cast<unsigned>(chunks)); }
  __device__ __forceinline__ RingPlace<1> state() const { return {0, chunks % 2}; }

 private:
  static_assert((stages & (stages - 1)) == 0);
  static __device__ __forceinline__ Place in_ring(unsigned count) {
    const auto own = static_cast<unsigned>(device::opaque(static_cast<int>(count)));
    return {static_cast<int>(own % stages), static_cast<int>(own / stages % 2)};
  }
};

/// What 64 rows of dq or dk are multiplied by, in shared memory: lanes have no registers for it.
struct OutputFactors {
  struct alignas(16) Row {
    tile::NormBackward<float> norm_backward;  // with the weight
    float rnorm;                              // times the weight
    float log_count;                          // ln(max(n, 1)); below 0: the row does not count
  };
  struct alignas(8) Weight {
    float weight, log_count;
  };
  /// Where rows and weights have a row: rows r and r + 8, of neighbouring lanes, lie in other banks.
  static __device__ __forceinline__ int place(int row) { return row ^ (row >> 1 & 4); }
  Row rows[chunk_rows];        // (rows)
  Weight weights[chunk_rows];  // (rows)
  float y_bound[chunk_rows];   // (rows) of ||y|| times the weight

  /// Writes the weight and the logarithm of the lane's own row. Scope: warp; barriers inside: 0.
  template <class Weights>
  __device__ __forceinline__ void set_weight(const Weights& of_positions, const HeadSide& side, int first_row,
                                             bool is_whole) {
    const int row = own_row();
    const float of_row = kernel::row_weight<true>(of_positions, row).full;
    const bool counts = is_whole || side.valid(first_row).contains(row);
    const float log = counts ? of_positions.log_count(row) : -1.0f;
    device::sync_warp();  // other lanes have read those of the chunk before
    if (writes_own_row()) device::store_shared(weights + place(row), Weight{of_row, log});
    device::sync_warp();
  }
  /// Of rows g and g + 8 of the warp: f(h, row).
  template <class F>
  static __device__ __forceinline__ void for_both_rows(F f) {
    const int thread = device::opaque(device::thread_index());
    const int row = (thread / 2 & 48) | (thread / 4 & 7);
#pragma unroll
    for (int h = 0; h < 2; ++h) f(h, row + 8 * h);
  }
};

/// The warp's rows of a pair.
template <Element T, int columns>
struct MeasuredRows {
  RowFragments<T, columns> x, y;

  /// Of the lane's own row.
  struct MeasuredX {
    float inverse;        // 1 / max(||x||, eps)
    float weight;         // 1 where rows have none
    std::uint32_t found;  // bits of RowPair::findings, in all lanes
    bool changed;         // whether rows have been written
  };

  /// Loads and measures the rows of x, and writes what readers of the pair and the epilogue need. Rows of x
  /// and y that are not valid become zeros, and those of x of extreme norm are rescaled. is_weighted: x's
  /// rows have the weights of positions. Scope: warp; barriers inside: 0; finish() must follow.
  template <bool is_weighted>
  __device__ __forceinline__ MeasuredX measure_x(RowPair<T, columns>& pair, OutputFactors& factors,
                                                 const HeadSide& side, int first_row) {
    const bool is_whole = side.is_whole(first_row);
    bool changed = false;
    if (!is_whole) {
      const tile::ValidRows<chunk_rows> valid = side.valid(first_row);
      clear_rows(pair.x, valid);
      clear_rows(pair.y, valid);
      device::sync_warp();
      changed = true;
    }
    x.load(pair.x);
    const float squares = squares_of_own_row(x);
    tile::RowNorm<float> norm{squares, 0};
    std::uint32_t found = 0;
    if (device::any_lane(is_extreme<T>(squares))) {
      found |= device::any_lane(!are_finite<T>(x.r)) ? finding::x_not_finite : 0;
      norm = rescale_own_row(pair.x, squares);
      device::sync_warp();
      x.load(pair.x);
      changed = true;
    }

    const int own = own_row();
    const bool writes = writes_own_row();
    OutputFactors::Weight weight{1, 0};
    if constexpr (is_weighted) weight = device::load_shared(factors.weights + OutputFactors::place(own));
    const float rnorm = norm.rnorm(), inverse = norm.inverse();
    const auto norm_backward = tile::NormBackward<float>::of(norm, rnorm, weight.weight);
    pair.terms.factors.set_by_two(own, rnorm * weight.weight, !writes);
    if (writes) {
      OutputFactors::Row* const to = factors.rows + OutputFactors::place(own);
      if constexpr (is_weighted)
        device::store_shared(to, OutputFactors::Row{norm_backward, rnorm * weight.weight, weight.log_count});
      else
        device::store_shared(&to->norm_backward, norm_backward);
    }
    return {inverse, weight.weight, found, changed};
  }
  /// Loads the rows of y. Returns a bound of the norm of the lane's own one.
  __device__ __forceinline__ float measure_y(RowPair<T, columns>& pair) {
    y.load(pair.y);
    squares_of_y_ = squares_of_own_row(y);
    return norm_bound_of_own_row(y, squares_of_y_);
  }
  /// Whether the warp's rows of y, measured, are finite, as a bit of RowPair::findings.
  __device__ __forceinline__ std::uint32_t finding_of_y() const {
    if (!device::any_lane(!device::is_finite(squares_of_y_))) return 0;  // they may have overflowed
    return device::any_lane(!are_finite<T>(y.r)) ? finding::y_not_finite : 0;
  }
  /// Writes findings. PairRing::arrive_measured() must follow.
  static __device__ __forceinline__ void finish(RowPair<T, columns>& pair, const MeasuredX& of_x,
                                                std::uint32_t of_y = 0) {
    if (lane_index() == 0)
      device::store_shared(reinterpret_cast<std::uint32_t*>(&pair.findings) + warp_in_group(),
                           of_x.found | of_y);
    if (of_x.changed) device::fence_proxy_async();
  }

 private:
  float squares_of_y_ = 0;  // of the lane's own row
};

}  // namespace cottention::sm90
