// The weights of the positions of a chunk, w = max(n, 1)^-sigmoid(m), and what counts they follow from.
#pragma once

#include <cottention/kernel/sequence.cuh>
#include <cottention/tile/counts.cuh>

namespace cottention::kernel {

/// In shared memory.
template <class A, int warps>
struct CountStorage {
  tile::ChunkTable<A> table;
  std::int64_t scratch[warps];
};

/// Of a head that walks the rows first, ..., last - 1 of its sequence in `direction`; `scaled` tells whether
/// the Problem has weights. Bidirectional, all positions have that of the whole sequence.
template <AnyProblem P, tile::Direction direction, int chunk, int warps>
class PositionWeights {
 public:
  using A = typename P::accumulate;
  static constexpr bool causal = P::mask == Mask::causal;

  /// By the whole block.
  __device__ __forceinline__ PositionWeights(const RecurrenceParams<typename P::element>& params,
                                             std::int64_t batch, int kv_head, const Side& keys, int first,
                                             int last, CountStorage<A, warps>& storage)
      : table_(storage.table), mask_(keys.mask), length_(keys.length), first_(first) {
    scaled_ = P::scale != Scale::none && params.scale_logit != nullptr;
    if (!scaled_) return;
    exponent_ = tile::sigmoid(device::load_global(params.scale_logit + kv_head));
    anchor_ = params.initial_count != nullptr ? device::load_global(params.initial_count + batch) : 0;
    const auto sync = [] { device::sync_block(); };  // the warps' counts are written; they are read
    const int before = !causal ? length_ : reverse ? end_of_table(last) : first_;
    anchor_ += tile::count_present<warps>(mask_, 0, before, storage.scratch, sync);
    if constexpr (!causal) {
      const double log = tile::log_count(anchor_);
      log_ = static_cast<A>(log);
      weight_ = static_cast<A>(tile::weight_of(log, exponent_));
    }
  }

  /// Before the barrier that starts a chunk at `row`.
  __device__ __forceinline__ void begin_chunk(int row) {
    if (!scaled_ || !causal) return;
    const int index = (row - first_) / chunk;
    const bool enters = reverse ? entry_ == 0 : index % device::warp_size == 0;
    entry_ = index % device::warp_size;
    if (enters && device::warp_index() == 0)
      anchor_ =
          table_.template fill<direction>(mask_, row - entry_ * chunk, length_, chunk, anchor_, exponent_);
    presence_ = tile::Presence<chunk>::load(mask_, row, length_);
  }
  /// After it.
  __device__ __forceinline__ void enter_chunk() {
    if (!scaled_ || !causal) return;
    before_ = device::load_shared(table_.before + entry_);
    weight_ = device::load_shared(table_.weight + entry_);
    log_ = device::load_shared(table_.logarithm + entry_);
  }

  __device__ __forceinline__ bool scaled() const { return scaled_; }
  /// At the chunk's first row.
  __device__ __forceinline__ A weight() const { return weight_; }
  /// At a row of the chunk, over weight().
  __device__ __forceinline__ A relative(int row) const {
    if (!scaled_ || !causal) return A{1};
    return tile::relative_weight<A>(before_ + 1, presence_.up_to(row) - 1, exponent_);
  }
  /// ln(max(n, 1)) at a row of the chunk.
  __device__ __forceinline__ A log_count(int row) const {
    return causal ? log_ + tile::relative_log<A>(before_ + 1, presence_.up_to(row) - 1) : log_;
  }

 private:
  static constexpr bool reverse = causal && direction == tile::Direction::reverse;

  /// In reverse: where the 32 chunks end that hold the last of the piece.
  __device__ __forceinline__ int end_of_table(int last) const {
    constexpr int rows = chunk * device::warp_size;
    if (last <= first_) return first_;
    const int end = first_ + ((last - 1 - first_) / rows + 1) * rows;
    return end < length_ ? end : length_;
  }

  tile::ChunkTable<A>& table_;
  const std::uint8_t* mask_;
  int length_, first_;
  bool scaled_ = false;
  double exponent_ = 0;
  std::int64_t anchor_ = 0;  // unmasked keys up to the next 32 chunks; warp 0 keeps it up
  std::int64_t before_ = 0;
  int entry_ = 0;
  A weight_{1}, log_{0};
  tile::Presence<chunk> presence_{};
};

}  // namespace cottention::kernel
