// The weights of the positions of a chunk, w = max(n, 1)^-sigmoid(m), and what counts they follow from.
#pragma once

#include <concepts>
#include <type_traits>

#include <cottention/kernel/params.cuh>
#include <cottention/tile/counts.cuh>

namespace cottention::kernel {

/// What PositionWeights keeps in shared memory. has_registers: as there.
template <class A, int warps, bool has_registers = false>
struct CountStorage {
  tile::ChunkTable<A, has_registers> table;
  union {  // one is used at a time
    tile::ValidCountStorage<warps * device::warp_size> valid;
    device::BlockSumStorage<double, warps * device::warp_size> sum;
  };
  // (warp_size): a copy for each lane, which may have no registers for them.
  double exponent[device::warp_size];
  std::int64_t anchor[device::warp_size];  // keys before the next 32 chunks (in reverse, before their end);
                                           // warp 0 updates it
};

/// The weights of a head whose block walks the rows first, ..., last - 1 of its sequence in `direction`. In a
/// bidirectional Problem all positions have the weight of the whole sequence. has_registers, for 16-bit
/// elements: lanes have some for fewer instructions in a chunk.
template <AnyProblem P, recurrence::Direction direction, int chunk, int warps, bool has_registers = false>
class PositionWeights {
 public:
  using A = typename P::accumulate;
  static constexpr bool causal = P::mask == Mask::causal;

  /// Counts the keys before the walk. Scope: block; barriers inside: 2 where
  /// there are weights and keys are masked, else 0.
  __device__ __forceinline__ PositionWeights(const RecurrenceParams<typename P::element>& params,
                                             std::int64_t batch, int kv_head, const tile::SequenceSide& keys,
                                             int first, int last,
                                             CountStorage<A, warps, has_registers>& storage)
      : storage_(storage), first_(first) {
    scaled_ = P::scale != Scale::none && tile::given(params.scale_logit);
    if (!scaled_) return;
    const double exponent = tile::sigmoid(tile::load_scale_logit(params.scale_logit, kv_head));
    std::int64_t anchor = initial_count_of(params, batch);
    const int before = !causal ? keys.length : reverse ? end_of_table(last, keys.length) : first_;
    anchor += tile::count_valid(keys.mask, 0, before, storage.valid);
    if constexpr (causal) {
      if constexpr (has_registers) exponent_ = static_cast<A>(exponent);
      if (device::warp_index() == 0) {
        device::store_shared(storage.exponent + device::lane_index(), exponent);
        device::store_shared(storage.anchor + device::lane_index(), anchor);
      }
    } else {
      const double log = tile::log_count(anchor);
      log_ = static_cast<A>(log);
      weight_ = static_cast<A>(tile::weight_of(log, exponent));
    }
  }

  /// Prepares the chunk at `row`, from the keys' mask and length. Scope: block, before the barrier that
  /// starts the chunk; no barrier inside.
  __device__ __forceinline__ void begin_chunk(int row, const std::uint8_t* mask, int length) {
    if (!causal) return;
    valid_ = {};  // so that no lane keeps those of the chunk before
    if (!scaled_) return;
    const int index = (row - first_) / chunk;
    const bool enters = reverse ? entry_ == 0 : index % device::warp_size == 0;
    entry_ = index % device::warp_size;
    if (enters && device::warp_index() == 0) {
      std::int64_t* const anchor = storage_.anchor + device::lane_index();
      device::store_shared(anchor,
                           storage_.table.template fill<direction>(mask, row - entry_ * chunk, length, chunk,
                                                                   device::load_shared(anchor), exponent()));
    }
    valid_ = tile::ValidRows<chunk>::template load<has_registers>(mask, row, length);
  }
  /// Loads what the chunk's weights follow from, and what log_count() does. Scope: thread, after the barrier
  /// that follows begin_chunk().
  __device__ __forceinline__ void enter_chunk() {
    if (!causal) return;
    log_ = scaled_ ? device::load_shared(storage_.table.logarithm + entry_) : A{0};
    if constexpr (has_registers) {
      before_ = tile::over_count(log_);
      weight_ = tile::rough_weight_of(log_, exponent_);
    } else {
      before_ = scaled_ ? device::load_shared(storage_.table.before + entry_) : 0;
      weight_ = scaled_ ? device::load_shared(storage_.table.weight + entry_) : A{1};
    }
  }

  /// Whether positions have weights: the call may have no scale_logit.
  __device__ __forceinline__ bool scaled() const { return scaled_; }
  /// The weight at the chunk's first row.
  __device__ __forceinline__ A weight() const { return weight_; }
  /// The weight at a row of the chunk, over weight().
  __device__ __forceinline__ A relative(int row) const {
    if (!scaled_ || !causal) return A{1};
    const int further = valid_.template up_to<has_registers>(row) - 1;
    if constexpr (has_registers)
      return tile::rough_relative_weight(before_, further, exponent_);
    else if constexpr (rough)
      return tile::rough_relative_weight(before_ + 1, further, exponent());
    else
      return tile::relative_weight<A>(before_ + 1, further, exponent());
  }
  /// ln(max(n, 1)) at a row of the chunk.
  __device__ __forceinline__ A log_count(int row) const {
    if constexpr (!causal)
      return log_;
    else if constexpr (has_registers)
      return tile::ln_2 * (log_ + tile::rough_relative_log2(before_, valid_.template up_to<true>(row) - 1));
    else if constexpr (rough)
      return log_ + tile::rough_relative_log(before_ + 1, valid_.up_to(row) - 1);
    else
      return log_ + tile::relative_log<A>(before_ + 1, valid_.up_to(row) - 1);
  }

 private:
  static constexpr bool rough = sizeof(typename P::element) == 2;
  static_assert(rough || !has_registers);
  static constexpr bool reverse = causal && direction == recurrence::Direction::reverse;

  /// Where the table of 32 chunks ends that holds the last row of the piece, for walks in reverse.
  __device__ __forceinline__ int end_of_table(int last, int length) const {
    constexpr int rows = chunk * device::warp_size;
    if (last <= first_) return first_;
    const int end = first_ + ((last - 1 - first_) / rows + 1) * rows;
    return end < length ? end : length;
  }

  __device__ __forceinline__ double exponent() const {
    return device::load_shared(storage_.exponent + device::lane_index());
  }

  CountStorage<A, warps, has_registers>& storage_;
  int first_;
  bool scaled_ = false;
  // Keys before the chunk, and the initial state's; where has_registers, 1 over one more.
  std::conditional_t<has_registers, A, std::int64_t> before_ = 0;
  int entry_ = 0;
  A weight_{1}, log_{0}, exponent_{0};  // log_: as ChunkTable has it; exponent_: where has_registers
  tile::ValidRows<chunk> valid_{};
};

/// Whether terms have their weights in full; in half's narrow range they have them over their chunk's weight.
template <Element T>
inline constexpr bool weights_in_terms = !std::same_as<T, half>;

/// The weight of a row: over that of the chunk's first row, and in full.
template <class A>
struct RowWeight {
  A relative, full;
};
template <bool is_weighted, class Weights, class A = typename Weights::A>
__device__ __forceinline__ RowWeight<A> row_weight(const Weights& weights, int row) {
  const A relative = is_weighted ? weights.relative(row) : A{1};
  return {relative, is_weighted ? weights.weight() * relative : A{1}};
}
/// The w that ChunkFactors multiplies states by, for terms that may have weights.
template <Element T, bool is_weighted, class Weights, class A = typename Weights::A>
__device__ __forceinline__ A state_weight(const Weights& weights) {
  return !weights_in_terms<T> && is_weighted && weights.scaled() ? weights.weight() : A{1};
}

}  // namespace cottention::kernel
