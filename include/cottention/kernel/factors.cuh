// What the rows and terms of a chunk are multiplied by: norms, and the weights of positions.
#pragma once

#include <cottention/kernel/head.cuh>
#include <cottention/tile/counts.cuh>
#include <cottention/tile/norms.cuh>

namespace cottention::kernel {

/// In shared memory.
template <class Part>
struct Factors {
  using A = typename Part::A;
  alignas(16) A row[Part::chunk];     // of a_i
  alignas(16) A term[Part::chunk];    // of b_j c_j^T; its weight relative to the chunk's
  alignas(16) A output[Part::chunk];  // of out_i, where rows have factors of their own
  tile::ChunkTable<A> table;
  std::int64_t scratch[Part::warps];
};

/// Factors of the current chunk. With w the weight at the chunk's first key, where terms have weights, and a,
/// b and c as their tiles hold them,
///
///     out_i = w (row_i a_i (H / w) + sum over j of (row_i a_i . b_j) term_j c_j) output_i
///     H    += w sum of b_j (term_j c_j)^T
///
/// so that what is rounded to the element type lies near 1 wherever the chunk lies in its sequence.
template <AnyRoles R, Tiling tiling>
class ChunkFactors {
 public:
  using Part = PartOf<R, tiling>;
  using T = typename R::element;
  using A = typename Part::A;

  /// By the whole block.
  __device__ __forceinline__ ChunkFactors(const Head<R, tiling>& head, Factors<Part>& factors)
      : factors_(factors), mask_(head.keys().mask), length_(head.keys().length), first_(head.first) {
    if constexpr (R::projects && !R::tames_all)  // such rows of a enter as they are
      for (int row = device::thread_index(); row < Part::chunk; row += Part::threads)
        device::store_shared(factors_.row + row, A{1});
    const RecurrenceParams<T>& params = head.params;
    scaled_ = R::weighted != Weighted::nothing && params.scale_logit != nullptr;
    if (!scaled_) return;
    exponent_ = tile::sigmoid(device::load_global(params.scale_logit + head.kv_head));
    anchor_ = params.initial_count != nullptr ? device::load_global(params.initial_count + head.batch) : 0;
    const auto sync = [] { device::sync_block(); };  // the warps' counts are written; they are read
    const int before = !causal ? length_ : reverse ? end_of_table(head.last) : first_;
    anchor_ += tile::count_present<Part::warps>(mask_, 0, before, factors.scratch, sync);
    if constexpr (!causal) {
      const double log = tile::log_count(anchor_);
      log_ = static_cast<A>(log);
      weight_ = static_cast<A>(tile::weight_of(log, exponent_));
    }
  }

  // ---- before the barrier that starts a chunk at `row`

  __device__ __forceinline__ void begin_chunk(int row) {
    if (!scaled_ || !causal) return;
    const int index = (row - first_) / Part::chunk;
    const bool enters = reverse ? entry_ == 0 : index % device::warp_size == 0;
    entry_ = index % device::warp_size;
    if (enters && device::warp_index() == 0)
      anchor_ = factors_.table.template fill<R::direction>(mask_, row - entry_ * Part::chunk, length_,
                                                           Part::chunk, anchor_, exponent_);
    presence_ = tile::Presence<Part::chunk>::load(mask_, row, length_);
  }

  // ---- after it; what is written is there for all after the next barrier

  /// Looks the chunk up in its table.
  __device__ __forceinline__ void enter_chunk() {
    if (scaled_ && causal) {
      before_ = device::load_shared(factors_.table.before + entry_);
      weight_ = device::load_shared(factors_.table.weight + entry_);
      log_ = device::load_shared(factors_.table.logarithm + entry_);
    }
  }

  /// Once for each chunk and member that brings terms.
  __device__ __forceinline__ void measure_terms(const Head<R, tiling>& head, int member, int row,
                                                TermTiles<R, tiling>& tiles) {
    enter_chunk();
    const auto write = [this](int r, const tile::Length<A>& length) {
      const A weight = R::weighted == Weighted::terms ? relative_weight(r) : A{1};
      device::store_shared(factors_.term + r, length.unit() * weight);
    };
    if constexpr (!R::projects)
      tile::measure_rows<Part::threads>(tiles.b, write);
    else if constexpr (column_blocks<R, tiling> == 1)
      tile::measure_rows<Part::threads>(tiles.c, write);
    else
      tile::measure_rows_in_memory<Part::threads>(head.c(member), row, R::dims.v, tiles.c, write);
    if constexpr (R::tames_all) {
      // Rows fall to the same threads as above, but where c was measured in memory.
      if constexpr (column_blocks < R, tiling >> 1) device::sync_block();  // the factors of c are written
      tile::measure_rows<Part::threads>(tiles.b, [this](int r, const tile::Length<A>& length) {
        const A c = device::load_shared(factors_.term + r);
        device::store_shared(factors_.term + r, device::times_power_of_two(c, length.exponent));
      });
    }
  }

  /// Likewise for rows.
  __device__ __forceinline__ void measure_rows(typename Part::RowTile& a) {
    enter_chunk();
    if constexpr (!R::projects || R::tames_all) {
      tile::measure_rows<Part::threads>(a, [this](int r, const tile::Length<A>& length) {
        device::store_shared(factors_.row + r, length.unit());
        if constexpr (R::tames_all)
          device::store_shared(
              factors_.output + r,
              device::times_power_of_two(device::quotient(A{1}, length.unit()), length.exponent) *
                  row_weight(r));
        else if (R::weighted == Weighted::rows && scaled_ && causal)
          device::store_shared(factors_.output + r, row_weight(r));
      });
    } else if (R::weighted == Weighted::rows && scaled_ && causal) {
      for (int r = device::thread_index(); r < Part::chunk; r += Part::threads)
        device::store_shared(factors_.output + r, row_weight(r));
    }
  }

  // ---- after that barrier

  /// Bounds the terms' factors by a power of two, for half. Once they are there.
  __device__ __forceinline__ void bound_terms() {
    if constexpr (R::tames_all) {
      float largest = 0;
      for (int r = device::lane_index(); r < Part::chunk; r += device::warp_size) {
        const float x = device::magnitude(device::load_shared(factors_.term + r));
        largest = x > largest ? x : largest;
      }
#pragma unroll
      for (int distance = 1; distance < device::warp_size; distance *= 2) {
        const float other = device::shuffle_xor(largest, distance);
        largest = other > largest ? other : largest;
      }
      term_exponent_ = largest > 0 && device::is_finite(largest) ? device::exponent_of(largest) : 0;
    }
  }
  __device__ __forceinline__ int term_exponent() const { return R::tames_all ? term_exponent_ : 0; }

  /// What scores are multiplied by beside the factors, and so `out` until it is stored.
  __device__ __forceinline__ A score_scale() const {
    return device::times_power_of_two(A{1}, -term_exponent());
  }

  /// What the chunk's sum is multiplied by when it joins the state.
  __device__ __forceinline__ A of_state() const {
    return R::weighted == Weighted::terms && scaled_ ? weight_ : A{1};
  }

  /// out from raw a to the scale at which scores times c are added to it.
  __device__ __forceinline__ void scale_prefix(typename Part::Output& out) const {
    A scale = device::quotient(A{1}, of_state());
    if constexpr (R::tames_all) scale *= score_scale();
    scale_rows(out, scale);
  }
  /// From the scale of one member's scores to that of the next, which has been bounded since.
  __device__ __forceinline__ void rescale(typename Part::Output& out, int exponent_before) const {
    if constexpr (R::tames_all)
      for_each_sum(out, [scale = device::times_power_of_two(A{1}, exponent_before - term_exponent())](
                            A& sum, int, int) { sum *= scale; });
  }

  /// Likewise, where nothing else is added.
  __device__ __forceinline__ void scale_answer(typename Part::Output& out) const { scale_rows(out, A{1}); }

  /// What rows row + g and row + g + 8 of out are multiplied by in the end.
  __device__ __forceinline__ void output_factors(int row, A (&factors)[2]) const {
    const bool weighted_rows = R::weighted == Weighted::rows && scaled_;
    A all{1};  // bidirectional, the state has the terms' weight already
    if (causal ? R::weighted == Weighted::terms : weighted_rows) all = weight_;
    if constexpr (R::tames_all && causal) all *= device::times_power_of_two(A{1}, term_exponent());
    if (R::tames_all || (causal && weighted_rows)) {
      row_factors(factors_.output, row, factors);
      factors[0] *= all;
      factors[1] *= all;
    } else {
      factors[0] = factors[1] = all;
    }
  }

  /// ln(max(n, 1)) at a row of the chunk.
  __device__ __forceinline__ A log_count(int row) const {
    return causal ? log_ + tile::relative_log<A>(before_ + 1, presence_.up_to(row) - 1) : log_;
  }

 private:
  static constexpr bool causal = R::mask == Mask::causal;
  static constexpr bool reverse = R::direction == tile::Direction::reverse;

  /// In reverse: where the 32 chunks end that hold the last of the piece.
  __device__ __forceinline__ int end_of_table(int last) const {
    constexpr int rows = Part::chunk * device::warp_size;
    if (last <= first_) return first_;
    const int end = first_ + ((last - 1 - first_) / rows + 1) * rows;
    return end < length_ ? end : length_;
  }

  template <class F>
  static __device__ __forceinline__ void for_each_sum(typename Part::Output& out, F f) {
#pragma unroll
    for (int i = 0; i < Part::row_blocks; ++i)
#pragma unroll
      for (int m = 0; m < Part::warp_column_blocks; ++m)
#pragma unroll
        for (int e = 0; e < 8; ++e) f(out.sums[i][m][e / 4].values[e % 4], i, e / 2 % 2);
  }
  __device__ __forceinline__ void scale_rows(typename Part::Output& out, A scale) const {
    A factors[Part::row_blocks][2];
#pragma unroll
    for (int i = 0; i < Part::row_blocks; ++i) {
      row_factors(factors_.row, 16 * i, factors[i]);
      factors[i][0] *= scale;
      factors[i][1] *= scale;
    }
    for_each_sum(out, [&factors](A& sum, int i, int lower) { sum *= factors[i][lower]; });
  }
  static __device__ __forceinline__ void row_factors(const A* factors_shared, int row, A (&factors)[2]) {
    const int g = device::lane_index() / 4;
    factors[0] = device::load_shared(factors_shared + row + g);
    factors[1] = device::load_shared(factors_shared + (row + g + 8) % Part::chunk);
  }
  __device__ __forceinline__ A relative_weight(int row) const {
    if (!scaled_ || !causal) return A{1};
    return tile::relative_weight<A>(before_ + 1, presence_.up_to(row) - 1, exponent_);
  }
  /// Of a row of the output, where rows have weights; bidirectional, output_factors() has it.
  __device__ __forceinline__ A row_weight(int row) const {
    return R::weighted == Weighted::rows && scaled_ && causal ? weight_ * relative_weight(row) : A{1};
  }

  Factors<Part>& factors_;
  const std::uint8_t* mask_;
  int length_, first_;
  bool scaled_ = false;
  double exponent_ = 0;
  std::int64_t anchor_ = 0;  // unmasked keys up to the next 32 chunks; warp 0 keeps it up
  std::int64_t before_ = 0;
  int entry_ = 0;
  int term_exponent_ = 0;
  A weight_{1}, log_{0};
  tile::Presence<Part::chunk> presence_{};
};

}  // namespace cottention::kernel
