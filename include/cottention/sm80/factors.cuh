// What the rows and terms of a chunk are multiplied by: norms, and the weights of positions.
#pragma once

#include <cottention/kernel/position_weights.cuh>
#include <cottention/sm80/measure.cuh>
#include <cottention/sm80/measure_global.cuh>
#include <cottention/sm80/output.cuh>
#include <cottention/sm80/tiles.cuh>
#include <cottention/tile/exponents.cuh>

namespace cottention::sm80 {

/// Factors of the rows that are a in a recurrence, in shared memory.
template <class Part>
struct RowFactors {
  using A = typename Part::A;
  alignas(16) A a[Part::chunk];       // (chunk): of a_i, where scores have to be kept in half's range
  alignas(16) A output[Part::chunk];  // (chunk): of out_i
};

/// Factors of a side, queries or keys, whose tensors are x, which is normalised (q or k), and y, which is not
/// (g or v).
template <class Part>
struct SideFactors {
  tile::TermFactors<typename Part::T, Part::chunk> term;  // (chunk): of x y^T, where these rows are terms
  RowFactors<Part> rows;
};

/// The SideFactors of the rows and terms of one recurrence, and the storage that counts and weights need.
template <class Part>
struct Factors : SideFactors<Part> {
  kernel::CountStorage<typename Part::A, Part::warps> counts;
};

/// Factors of the current chunk, with a, b and c as their tiles hold them:
///
///     out_i = w (row_i a_i (H / w) + sum over j of (row_i a_i . b_j) term_j c_j) output_i
///     H    += w sum of b_j (term_j c_j)^T
///
/// w is 1 and weights are in the terms, but for half: there w is the weight at the chunk's first key, and
/// terms have theirs relative to it, so that what is rounded lies near 1 wherever the chunk lies in its
/// sequence. row_i is 1 as well, unless neither a nor b is normalised and their type is half.
template <kernel::AnyRoles R, Tiling tiling>
class ChunkFactors {
 public:
  using Part = PartOf<R, tiling>;
  using T = typename R::element;
  using A = typename Part::A;

  /// Scope: block; barriers inside: those of PositionWeights.
  __device__ __forceinline__ ChunkFactors(const Head<R, tiling>& head, Factors<Part>& factors)
      : factors_(factors),
        weights_(head.params, head.batch, head.kv_head, head.keys(), head.first, head.last, factors.counts) {}

  /// Prepares the weights of the chunk at `row`; call it before the barrier of for_each_step().
  __device__ __forceinline__ void begin_chunk(const Head<R, tiling>& head, int row) {
    weights_.begin_chunk(row, head.keys().mask, head.keys().length);
  }

  // ---- after the barrier of for_each_step(); what these write can be read after the next barrier

  __device__ __forceinline__ void enter_chunk() { weights_.enter_chunk(); }

  /// Measures b and c once for each chunk and query head that brings terms. Scope: block; barriers inside: 1
  /// for dq and dk in half where several V tiles share c, else 0.
  __device__ __forceinline__ void measure_terms(const Head<R, tiling>& head, int group_head, int row,
                                                TermTiles<R, tiling>& tiles) {
    const auto write = [this](int r, const tile::RowNorm<A>& norm) {
      const kernel::RowWeight<A> weight = kernel::row_weight<weighs_terms>(weights_, r);
      factors_.term.set(r, norm.rnorm() * (kernel::weights_in_terms<T> ? weight.full : weight.relative));
    };
    if constexpr (!R::has_norm_backward) {
      sm80::rescale_and_measure_rows<Part::threads>(tiles.b, 0, write);
    } else if constexpr (kernel::v_tiles<R, tiling> == 1) {
      if constexpr (R::normalizes_all_operands)
        sm80::rescale_and_measure_pairs<Part::threads>(
            tiles.b, tiles.c, 0,
            [&write](int r, const tile::RowNorm<A>&, const tile::RowNorm<A>& c) { write(r, c); });
      else
        sm80::rescale_and_measure_rows<Part::threads>(tiles.c, 0, write);
    } else {
      if constexpr (R::normalizes_all_operands) {
        sm80::measure_rows<Part::threads>(tiles.b, 0, [this](int r, const tile::RowNorm<A>& b) {
          device::store_shared(factors_.term.full + r, static_cast<A>(tile::half_exponent(b)));
        });
        device::sync_block();  // half the exponents of b are written
      }
      const auto shift = [this](int r) {
        return static_cast<int>(device::load_shared(factors_.term.full + r));
      };
      sm80::rescale_and_measure_global_rows<Part::threads>(head.c(group_head), row, R::dims.v, tiles.c, shift,
                                                           write);
    }
  }

  /// Writes the factors of rows once for each chunk and query head that brings rows. For o and dv it measures
  /// a, (chunk, depth), and rescales rows of extreme norm; for dq and dk it measures a in half, and otherwise
  /// has only weights to write. Scope: block; no barrier inside.
  __device__ __forceinline__ void prepare_rows(typename Part::TileAB& a) {
    if constexpr (R::normalizes_all_operands) {
      sm80::measure_rows<Part::threads>(a, Part::warps / 2, [this](int r, const tile::RowNorm<A>& norm) {
        device::store_shared(factors_.rows.a + r, norm.rnorm());
        device::store_shared(factors_.rows.output + r, norm.norm() * row_weight(r));
      });
    } else if constexpr (!R::has_norm_backward) {
      sm80::rescale_and_measure_rows<Part::threads>(
          a, Part::warps / 2, [this](int r, const tile::RowNorm<A>& norm) {
            device::store_shared(factors_.rows.output + r, norm.rnorm() * row_weight(r));
          });
    } else if (weighs_rows()) {
      for (int r = device::thread_index(); r < Part::chunk; r += Part::threads)
        device::store_shared(factors_.rows.output + r, row_weight(r));
    }
  }

  // ---- after the barrier that follows measuring

  /// A power of two that bounds the terms' factors, for half. Scope: warp; no barrier inside.
  __device__ __forceinline__ int term_exponent() const {
    return R::normalizes_all_operands ? tile::exponent_of_factors<Part::chunk>(factors_.term.full) : 0;
  }

  /// The w that the state is multiplied by.
  __device__ __forceinline__ A of_state() const { return kernel::state_weight<T, weighs_terms>(weights_); }

  /// 1 over it.
  __device__ __forceinline__ A over_state() const { return device::div_rn(A{1}, of_state()); }

  /// out from a (H / w) to row_i a_i (H / w).
  __device__ __forceinline__ void scale_inter_chunk(typename Part::Output& out) const {
    if constexpr (R::normalizes_all_operands) sm80::scale_rows<Part>(out, factors_.rows.a, A{1});
  }

  /// out (chunk, columns) from sums to outputs, or to the gradient that goes through the norm.
  __device__ __forceinline__ void scale_output(typename Part::Output& out) const {
    A all{1};
    if constexpr (!causal && R::weighted == kernel::Weighted::rows)
      all = weights_.weight();
    else if constexpr (causal)
      all = of_state();
    if (R::normalizes_all_operands || !R::has_norm_backward || weighs_rows())
      sm80::scale_rows<Part>(out, factors_.rows.output, all);
    else if constexpr (R::weighted != kernel::Weighted::nothing)
      sm80::scale_all<Part>(out, all);
  }

  /// ln(max(n, 1)) at a row of the chunk.
  __device__ __forceinline__ A log_count(int row) const { return weights_.log_count(row); }

 private:
  static constexpr bool causal = R::mask == Mask::causal;
  static constexpr bool weighs_terms = R::weighted == kernel::Weighted::terms;

  /// Whether each row of the output has a weight of its own.
  __device__ __forceinline__ bool weighs_rows() const {
    return R::weighted == kernel::Weighted::rows && causal && weights_.scaled();
  }
  __device__ __forceinline__ A row_weight(int row) const {
    return weighs_rows() ? weights_.weight() * weights_.relative(row) : A{1};
  }

  Factors<Part>& factors_;
  kernel::PositionWeights<typename R::problem, R::direction, Part::chunk, Part::warps> weights_;
};

}  // namespace cottention::sm80
