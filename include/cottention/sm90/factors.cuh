// What the rows and terms of a chunk are multiplied by: norms, and the weights of positions. The first
// warpgroup measures the tiles; all warpgroups read the factors of terms in shared memory.
#pragma once

#include <concepts>
#include <cstdint>

#include <cottention/device/barrier.cuh>
#include <cottention/kernel/position_weights.cuh>
#include <cottention/sm90/measure.cuh>
#include <cottention/sm90/pipeline.cuh>
#include <cottention/tile/norm_backward.cuh>

namespace cottention::sm90 {

/// Whether lanes of the first warpgroup have registers for what follows from their index. Those of dv in
/// half, which keep its sums from one query head to the next, have few beyond 64 columns, and Apply has few
/// where two blocks share a multiprocessor.
template <kernel::AnyRoles R>
inline constexpr bool keeps_indices =
    !R::has_norm_backward && R::mask == Mask::causal &&
    (R::rows_are_queries || !std::same_as<typename R::element, half> || R::dims.qk <= 64);

/// Waits for the 128 threads of the first warpgroup. Scope: warpgroup.
__device__ __forceinline__ void sync_first_group() { device::bar_sync(1, 128); }
/// The same, and whether `predicate` holds in any of them.
__device__ __forceinline__ bool any_of_first_group(bool predicate) {
  return device::bar_red_or(1, 128, predicate);
}

template <kernel::AnyRoles R, Tiling tiling>
struct FactorsStorage {
  using T = typename R::element;
  ChunkTerms<T> terms[2];
  Ring<2> barriers;
  /// Where State's warpgroups tell of each chunk's c, which they have in registers, whether it is finite.
  static constexpr bool are_told = !R::has_norm_backward && R::mask == Mask::causal;
  device::Mbarrier told[2];
  std::uint32_t not_finite[2][warps_of<R> - 4];  // by warps of the others; 0 but while c is not
  /// The norm backward leaves no registers for weights.
  static constexpr bool has_registers = !R::has_norm_backward;
  kernel::CountStorage<float, warps_of<R>, has_registers> counts;
  /// Rows of dk stay while the terms of a group pass.
  static constexpr bool has_rows = lacks_registers<R> && !R::rows_are_queries;
  struct Row {
    tile::NormBackward<float> norm_backward;
    float rnorm;
  };
  Row rows[has_rows ? chunk_rows : 1];  // (rows)

  /// Scope: thread; fence_mbarrier_init() and sync_block() must follow.
  __device__ __forceinline__ void init(int empty_arrivals) {
    barriers.init(1, empty_arrivals);
    for (int turn = 0; turn < 2; ++turn) {
      device::mbarrier_init(told + turn, warps_of<R> - 4);
      for (std::uint32_t& found : not_finite[turn]) device::store_shared(&found, 0u);
    }
  }

  /// Tells whether the warp's elements of c are finite. Scope: warp, each of State's warpgroups.
  __device__ __forceinline__ void tell(RingPlace<2> place, bool finite) {
    const bool all_finite = !device::any_lane(!finite);
    if (device::lane_index() != 0) return;
    if (!all_finite) device::store_shared(&not_finite[place.index][device::warp_index() - 4], 1u);
    device::mbarrier_arrive(told + place.index);
  }
};

/// Factors of the current chunk, with a, b and c as their tiles hold them:
///
///     out_i = w (row_i a_i (H / w) + sum over j of (row_i a_i . b_j) term_j c_j) output_i
///     H    += w sum of b_j (term_j c_j)^T
///
/// w is 1 and weights are in the terms, but for half: there w is the weight at the chunk's first key, and
/// terms have theirs relative to it. row_i is 1 as well, unless neither a nor b is normalised and their type
/// is half.
///
/// Scope of all members but the constructor: the first warpgroup.
template <kernel::AnyRoles R, Tiling tiling>
class ChunkFactors {
 public:
  using T = typename R::element;
  using Storage = FactorsStorage<R, tiling>;
  using A = RowFragments<T, R::dims.qk>;
  static constexpr bool scales_rows = R::normalizes_all_operands;

  /// Scope: block; barriers inside: those of PositionWeights.
  __device__ __forceinline__ ChunkFactors(const Head<R, tiling>& head, Storage& storage)
      : head_(head),
        storage_(storage),
        weights_(head.params, head.batch, head.kv_head, head.keys(), head.first, head.last, storage.counts) {}

  /// Prepares the weights of the chunk at `row`. A barrier must be between it and enter_chunk(), and between
  /// the enter_chunk() before and it.
  __device__ __forceinline__ void begin_chunk(int row) {
    weights_.begin_chunk(row, head_.keys().mask, head_.keys().length);
  }
  __device__ __forceinline__ void enter_chunk() { weights_.enter_chunk(); }

  /// Measures a position's new rows and new terms; null: there are none. a: the fragments of the rows.
  /// finish() is called once all warps have measured: then products of the tiles must be finished. Rows of
  /// extreme norm are rescaled after it, and restart() is called, which has to load a again. Barriers inside:
  /// 1, 3 or, with rows of extreme norm, 4.
  template <class Finish, class Restart>
  __device__ __forceinline__ void measure(RowBuffer<R>* rows, const A& a, TermBuffer<R>* terms, Finish finish,
                                          Restart restart) {
    if (terms != nullptr) storage_.barriers.wait_empty(place_);
    const Findings found = measure_own<false>(rows, a, terms);
    const bool any = any_of_first_group(found.extreme || !found.finite);  // factors are written
    finish();
    if (terms != nullptr) finite_ = true;
    if (any) {
      const bool all_finite = !any_of_first_group(!found.finite);
      if (terms != nullptr) finite_ = all_finite;
      if (any_of_first_group(found.extreme)) {  // no product reads the tiles
        (void)measure_own<true>(rows, a, terms);
        device::fence_proxy_async();
        sync_first_group();  // rows are rescaled
        restart();
      }
    }
    if (terms != nullptr && device::thread_index() == 0)
      device::mbarrier_arrive(storage_.barriers.full + place_.index);
  }
  /// Waits until State's warpgroups have told whether the chunk's c is finite, where they tell; after
  /// measure() of new terms. Barriers inside: 0, or 1 where c is not finite.
  __device__ __forceinline__ void wait_told() {
    if constexpr (Storage::are_told) {
      device::mbarrier_wait(storage_.told + place_.index, place_.parity);
      constexpr int warps = warps_of<R> - 4;
      const int warp = device::lane_index() % warps;
      std::uint32_t* const found = storage_.not_finite[place_.index] + warp;
      finite_ = !device::any_lane(device::load_shared(found) != 0);
      if (finite_) return;
      sync_first_group();  // what was told is read
      if (device::thread_index() < warps) device::store_shared(found, 0u);
    }
  }
  /// The chunk's terms in shared memory, after measure().
  __device__ __forceinline__ const ChunkTerms<T>& terms() const { return storage_.terms[place_.index]; }
  /// Once the warp needs terms() no more. Scope: warp.
  __device__ __forceinline__ void release_terms() {
    storage_.barriers.arrive_empty(place_);
    place_.advance();
  }
  /// Goes on to the next terms where the first warpgroup does not read them.
  __device__ __forceinline__ void skip_terms() { place_.advance(); }

  /// Whether c is finite in all rows of the chunk, after measure() and wait_told().
  __device__ __forceinline__ bool terms_are_finite() const { return finite_; }

  /// row_i of rows g and g + 8.
  __device__ __forceinline__ const float (&row_factors() const)[2] { return row_; }
  /// What states are multiplied by: 1 / w.
  __device__ __forceinline__ float over_state() const { return device::div_rn(1.0f, of_state()); }

  /// From sums to outputs, or to the gradient that goes through the norm.
  __device__ __forceinline__ void scale_output(Sums<R::dims.v>& out) const {
    float all = 1;
    if constexpr (!causal && R::weighted == kernel::Weighted::rows)
      all = weights_.weight();
    else if constexpr (causal)
      all = of_state();
    if (scales_rows || !R::has_norm_backward || weighs_rows()) {
      const float factors[2] = {output_[0] * all, output_[1] * all};
      out.scale_rows(factors);
    } else if constexpr (R::weighted != kernel::Weighted::nothing) {
      out.scale_all(all);
    }
  }

  // ---- for the norm backward: of rows g and g + 8

  __device__ __forceinline__ tile::NormBackward<float> norm_backward(int h) const {
    if constexpr (Storage::has_rows)
      return device::load_shared(
          &storage_.rows[16 * warp_in_group() + lane_index() / 4 + 8 * h].norm_backward);
    else
      return {scale_[h], slope_[h]};
  }
  /// 1 / ||x|| of the lane's own row, and ln(max(n, 1)).
  __device__ __forceinline__ float own_rnorm() const {
    return Storage::has_rows ? device::load_shared(&storage_.rows[own_row() % chunk_rows].rnorm) : rnorm_;
  }
  __device__ __forceinline__ float own_log_count() const {
    return weights_.log_count(own_row() % chunk_rows);
  }

 private:
  static constexpr bool causal = R::mask == Mask::causal;
  static constexpr bool weighs_terms = R::weighted == kernel::Weighted::terms;
  static constexpr bool kept = keeps_indices<R>;

  /// Of the lane's rows: whether any is extreme, and whether c is finite.
  struct Findings {
    bool extreme = false, finite = true;
  };

  __device__ __forceinline__ float of_state() const {
    return kernel::state_weight<T, weighs_terms>(weights_);
  }
  __device__ __forceinline__ bool weighs_rows() const {
    return R::weighted == kernel::Weighted::rows && causal && weights_.scaled();
  }

  template <bool rescales, int columns>
  static __device__ __forceinline__ tile::RowNorm<float> norm_of(Tile<T, columns>& tile, float squares,
                                                                 int shift, bool& any_extreme) {
    if constexpr (rescales) {
      return rescale_own_row(tile, squares, shift);
    } else {
      bool is_own_extreme = is_extreme<T>(squares, shift);
      if (std::same_as<T, bfloat16> && device::any_lane(squares == 0)) {
        const bool is_zero = own_row_is_zero(tile);
        is_own_extreme = is_own_extreme && !is_zero;
      }
      any_extreme = any_extreme || is_own_extreme;
      return {squares, 0};
    }
  }

  /// Writes the factors of the lane's own row among the terms, and keeps those of its rows.
  template <bool rescales>
  __device__ __forceinline__ Findings measure_own(RowBuffer<R>* rows, const A& a, TermBuffer<R>* terms) {
    Findings found;
    if (terms != nullptr) measure_terms<rescales>(*terms, found.extreme, found.finite);
    if (rows != nullptr) measure_rows<rescales>(*rows, a, found.extreme);
    return found;
  }

  template <bool rescales>
  __device__ __forceinline__ void measure_terms(TermBuffer<R>& terms, bool& any_extreme, bool& all_finite) {
    tile::RowNorm<float> norm;
    if constexpr (R::has_norm_backward) {
      const float squares = squares_of_own_row(terms.c);
      all_finite = device::is_finite(squares);
      if (device::any_lane(!all_finite)) all_finite = are_finite(terms.c);  // squares may have overflowed
      int shift = 0;
      if constexpr (scales_rows) shift = tile::half_exponent({squares_of_own_row(terms.b), 0});
      norm = norm_of<rescales>(terms.c, squares, shift, any_extreme);
    } else {
      norm = norm_of<rescales>(terms.b, squares_of_own_row<kept>(terms.b), 0, any_extreme);
    }
    const int row = own_row<kept>();
    const kernel::RowWeight<float> weight = kernel::row_weight<weighs_terms>(weights_, row);
    ChunkTerms<T>& to = storage_.terms[place_.index];
    to.factors.set_by_two(row, norm.rnorm() * (kernel::weights_in_terms<T> ? weight.full : weight.relative),
                          !writes_own_row<kept>());
    if constexpr (std::same_as<T, half>)
      if (device::thread_index() == 0) device::store_shared(&to.weight, of_state());
  }

  template <bool rescales>
  __device__ __forceinline__ void measure_rows(RowBuffer<R>& rows, const A& a, bool& any_extreme) {
    const float weight = weighs_rows() ? weights_.weight() * weights_.relative(own_row()) : 1.0f;
    if constexpr (R::has_norm_backward) {
      const tile::RowNorm<float> norm =
          norm_of<rescales>(rows.norm_input, squares_of_own_row(rows.norm_input), 0, any_extreme);
      const float rnorm = norm.rnorm();
      const auto backward = tile::NormBackward<float>::of(norm, rnorm);
      if constexpr (Storage::has_rows) {
        device::sync_warp();  // lanes have read those of the chunk before
        if (writes_own_row())
          device::store_shared(storage_.rows + own_row(), typename Storage::Row{backward, rnorm});
        device::sync_warp();
      } else {
        rnorm_ = rnorm;
        to_both_rows(backward.scale, scale_);
        to_both_rows(backward.slope, slope_);
      }
      if constexpr (scales_rows) {
        const tile::RowNorm<float> of_a{squares_of_own_row(a), 0};
        to_both_rows(of_a.rnorm(), row_);
        to_both_rows(of_a.norm() * weight, output_);
      } else {
        to_both_rows(weight, output_);
      }
    } else {
      const auto norm = norm_of<rescales>(rows.a(), squares_of_own_row<kept>(a), 0, any_extreme);
      to_both_rows<kept>(norm.rnorm() * weight, output_);
    }
  }

  const Head<R, tiling>& head_;
  Storage& storage_;
  kernel::PositionWeights<typename R::problem, R::direction, chunk_rows, warps_of<R>, Storage::has_registers>
      weights_;
  RingPlace<2> place_;
  bool finite_ = true;
  float row_[2] = {1, 1}, output_[2] = {1, 1}, scale_[2] = {}, slope_[2] = {}, rnorm_ = 0;
};

}  // namespace cottention::sm90
