// The tiles of all gradients in one kernel: pairs of q and g, and of k and v, which are read from memory once
// and serve three outputs and two states; and what a warp measures of them.
#pragma once

#include <cstdint>

#include <cottention/kernel/position_weights.cuh>
#include <cottention/sm90/measure.cuh>
#include <cottention/sm90/pipeline.cuh>
#include <cottention/sm90/state.cuh>
#include <cottention/tile/norm_backward.cuh>

namespace cottention::sm90 {

/// 64 rows of x, q or k, whose norms count, and of y, g or v.
template <Element T, int columns>
struct RowPair {
  static constexpr int bytes = 2 * Tile<T, columns>::bytes;
  Tile<T, columns> x, y;
  ChunkTerms<T> terms;                        // norms and weights of x's rows
  device::Vector<std::uint32_t, 4> findings;  // (warps)
};

/// What is found in a warp's rows, as bits of RowPair::findings.
namespace finding {
inline constexpr std::uint32_t x_not_finite = 1, y_not_finite = 2;
}
/// Scope: thread, once the pair is measured.
template <Element T, int columns>
__device__ __forceinline__ std::uint32_t findings_of(const RowPair<T, columns>& pair) {
  const auto found = device::load_shared(&pair.findings);
  return found[0] | found[1] | found[2] | found[3];
}

/// Pairs go round as the buffers of pipeline.cuh; between `full` and their first readers a warpgroup measures
/// them, each warp its rows, and arrives at `measured`.
template <Element T, int columns, int stages>
struct PairRing {
  using Place = RingPlace<stages>;
  RowPair<T, columns> pairs[stages];
  Ring<stages> barriers;
  device::Mbarrier measured[stages];

  /// readers: warps. Scope: thread; fence_mbarrier_init() and sync_block() must follow.
  __device__ __forceinline__ void init(int readers) {
    barriers.init(1, readers);
    for (device::Mbarrier& barrier : measured) device::mbarrier_init(&barrier, 4);
  }
  __device__ __forceinline__ RowPair<T, columns>& at(Place place) { return pairs[place.index]; }
  /// Starts the loads of a pair once its buffer is empty. Scope: thread.
  __device__ __forceinline__ void load(Place place, const device::TensorMap& x_map,
                                       const device::TensorMap& y_map, Coordinates from) {
    barriers.wait_empty(place);
    device::Mbarrier* const full = barriers.full + place.index;
    device::mbarrier_arrive_expect_tx(full, RowPair<T, columns>::bytes);
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
  template <class Weights, class Side>
  __device__ __forceinline__ void set_weight(const Weights& of_positions, const Side& side, int first_row,
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
  struct Measured {
    float y_bound;  // of ||y||, times the weight
    float inverse;  // 1 / max(||x||, eps)
  };

  /// Loads and measures the rows, and writes what readers of the pair and the epilogue need. Rows that are
  /// not valid become zeros, and those of extreme norm are rescaled. is_weighted: x's rows have the weights
  /// of positions. Scope: warp; barriers inside: 0; PairRing::arrive_measured() must follow.
  template <bool is_weighted, class Side>
  __device__ __forceinline__ Measured measure(RowPair<T, columns>& pair, OutputFactors& factors,
                                              const Side& side, int first_row, bool is_whole) {
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

    y.load(pair.y);
    const float squares_of_y = squares_of_own_row(y);
    if (device::any_lane(!device::is_finite(squares_of_y)))  // it may have overflowed
      found |= device::any_lane(!are_finite<T>(y.r)) ? finding::y_not_finite : 0;
    const float y_bound = norm_bound_of_own_row(y, squares_of_y) * weight.weight;
    if (lane_index() == 0)
      device::store_shared(reinterpret_cast<std::uint32_t*>(&pair.findings) + warp_in_group(), found);
    if (changed) device::fence_proxy_async();
    return {y_bound, inverse};
  }
};

}  // namespace cottention::sm90
