// What the warpgroups of the kernels that make dk and dv together share (key_gradients.cuh,
// key_gradient_apply.cuh): their shared memory, and the order of their walk.
#pragma once

#include <concepts>
#include <cstdint>
#include <type_traits>

#include <cottention/kernel/scale_grad.cuh>
#include <cottention/sm90/fused_backward.cuh>
#include <cottention/sm90/state_rounding.cuh>

namespace cottention::sm90 {

/// Whether there is a kernel that makes dk and dv.
template <AnyProblem P>
inline constexpr bool has_key_gradients = has_kernels<kernel::Roles<P, recurrence::Output::dk>>&&
    has_kernels<kernel::Roles<P, recurrence::Output::dv>>;

/// D^T in the accumulators of one warpgroup, which has all of it.
template <AnyProblem P>
struct WholeState {
  using Part = State<typename P::element, kernel::Roles<P, recurrence::Output::dk>::dims>;
  static_assert(Part::groups <= 2);
  Part first{0}, second{Part::groups - 1};

  /// f(part) for each 64 rows.
  template <class F>
  __device__ __forceinline__ void for_each_part(F f) {
    f(first);
    if constexpr (Part::groups == 2) f(second);
  }
  /// As State::publish_all().
  template <class To>
  __device__ __forceinline__ void publish(To& tile) {
    if constexpr (Part::groups == 2)
      Part::publish_all(tile, first, second);
    else
      Part::publish_all(tile, first);
  }
  /// As State::publish_rounded().
  template <class To>
  __device__ __forceinline__ void publish_rounded(To& tile) {
    if constexpr (Part::groups == 2)
      Part::publish_rounded(tile, first, second);
    else
      Part::publish_rounded(tile, first);
  }
  /// The sum of the squares of the lane's elements.
  __device__ __forceinline__ float squares() {
    float sum = first.squares();
    if constexpr (Part::groups == 2) sum += second.squares();
    return sum;
  }
};

/// What the warpgroups share.
template <AnyProblem P, Tiling tiling>
struct KeyGradientBlock {
  static_assert(has_key_gradients<P>);
  using T = typename P::element;
  using Output = recurrence::Output;
  template <Output output>
  using Roles = kernel::Roles<P, output>;
  static constexpr HeadDim dims = P::head_dim;
  static constexpr bool causal = P::mask == Mask::causal;
  static constexpr int groups = causal ? 3 : 2, threads = 128 * groups;
  /// Whether D is multiplied in half first, and in two parts of T where that does not do.
  static constexpr bool rounds_state = causal && std::same_as<T, bfloat16>;
  /// Whether factors of terms need no power of two of their own: in half, where they have weights, they do.
  static constexpr bool bounds_factors = !std::same_as<T, half>;
  /// The first warpgroup measures the rows that have weights: dv's has rows of k in registers and measures
  /// them, and dk's measures queries.
  static constexpr bool weighs_queries = causal && P::scale == Scale::by_query;
  static constexpr Output first_output = weighs_queries ? Output::dk : Output::dv,
                          second_output = weighs_queries ? Output::dv : Output::dk;

  using Params = GradientParams<P>;
  using Pair = RowPair<T, dims.qk, dims.v>;
  using Pairs = PairRing<Pair, tiling.stages>;
  using Position = sm90::Position<tiling.stages>;
  using Weights =
      kernel::PositionWeights<P, recurrence::Direction::reverse, chunk_rows, threads / device::warp_size>;
  using Head = sm90::Head<Roles<Output::dk>, tiling>;

  /// Without queries where D is the sum over all of them.
  struct KeyStorage {
    int first_chunk, chunks;  // positions of the walk
    int last_row;             // the first row of chunk 0
    Position loaded;          // the next one to load; its thread has no registers for it
    HeadSide of_keys;
    Pairs keys;                             // of k and v, through whose memory dk and dv leave
    device::Mbarrier keys_read;             // once for each chunk
    OutputFactors factors[tiling.stages];   // of dk's rows; the weights are those of the rows that have some
    double scale_grad[128];                 // (threads of dk)
    TwoWayStateTile<T, dims.qk, dims.v> d;  // (q, g)
    kernel::CountStorage<float, threads / device::warp_size> counts;
  };
  struct CausalStorage : KeyStorage {
    bool is_last;     // the piece, in the order of the walk
    bool is_rounded;  // D, as it is published
    HeadSide of_queries;
    Pairs queries;    // of q and g
    int leading_end;  // of tile::LeadingChunks
    Ring<1> d_barriers;
    Told<tiling.stages> told;   // whether g is finite
    StateRounding<2> rounding;  // of D
  };
  using Storage = std::conditional_t<causal, CausalStorage, KeyStorage>;

  static __device__ __forceinline__ bool within(const Storage& storage, const Position& at) {
    return at.chunks < device::load_shared(&storage.chunks);
  }
  static __device__ __forceinline__ int row_of(const Storage& storage, const Position& at) {
    return static_cast<int>(static_cast<unsigned>(device::load_shared(&storage.last_row)) -
                            static_cast<unsigned>(at.chunks) * chunk_rows);
  }

  static __device__ __forceinline__ void start_scale_grad(Storage& storage) {
    const int thread = device::opaque(device::thread_index());
    if (thread < 128) device::store_shared(storage.scale_grad + thread, 0.0);
  }
  /// Writes what the block has summed for the gradient of scale_logit, if dk's rows have the weights. Scope:
  /// block; barriers inside: 3.
  static __device__ __forceinline__ void store_scale_grad(const Params& params, int partials_per_head,
                                                          Storage& storage) {
    if (P::scale != Scale::by_key || params.dk.scale_grad_partials == nullptr) return;
    device::sync_block();                                       // the first warpgroup has summed
    const int thread = device::opaque(device::thread_index());  // lanes keep no address for it
    const double own = thread < 128 ? device::load_shared(storage.scale_grad + thread) : 0.0;
    kernel::store_scale_grad(params.dk.scale_grad_partials, partials_per_head, own, storage.counts.sum);
  }

  /// For the rows first, ..., last - 1. Scope: thread, before a barrier.
  static __device__ __forceinline__ void init(const Head& head, int first, int last, Storage& storage) {
    storage.of_keys.set(head.rows, head.kv_head, head.batch);
    const int chunks = (last - first + chunk_rows - 1) / chunk_rows;
    device::store_shared(&storage.first_chunk, 0);
    device::store_shared(&storage.chunks, chunks);
    device::store_shared(&storage.last_row, first + (chunks - 1) * chunk_rows);
    device::store_shared(&storage.loaded, Position{});
    storage.keys.init(4 * 2);
    device::mbarrier_init(&storage.keys_read, 4 * 2);
    if constexpr (causal) init_queries(head, storage);
    device::fence_mbarrier_init();
  }

  /// Starts a second walk over the same rows, of D in two parts; rings and parities go on. Scope: thread,
  /// between barriers.
  static __device__ __forceinline__ void start_again(Storage& storage) {
    const int chunks = device::load_shared(&storage.chunks);
    device::store_shared(&storage.first_chunk, chunks);
    device::store_shared(&storage.chunks, 2 * chunks);
    device::store_shared(&storage.last_row,
                         static_cast<int>(static_cast<unsigned>(device::load_shared(&storage.last_row)) +
                                          static_cast<unsigned>(chunks) * chunk_rows));
    device::store_shared(&storage.is_rounded, false);
  }

  /// Starts the loads of the next position, if there is one. Scope: one thread, always the same.
  static __device__ __forceinline__ void load_next(const Params& params, Storage& storage) {
    Position at = device::load_shared(&storage.loaded);
    if (!within(storage, at)) return;
    const int row = row_of(storage, at), group = causal ? params.dk.term_group : 1;
    if (at.group_head == 0)
      storage.keys.load(at.keys(), params.k_map, params.v_map, storage.of_keys.at(0, row));
    if constexpr (causal)
      storage.queries.load(at.queries(group), params.q_map, params.g_map,
                           storage.of_queries.at(at.group_head, row));
    at.advance(group);
    device::store_shared(&storage.loaded, at);
  }

 private:
  static __device__ __forceinline__ void init_queries(const Head& head, Storage& storage) {
    storage.of_queries.set(head.terms, head.kv_head * head.group, head.batch);
    device::store_shared(&storage.is_last, head.is_last());
    device::store_shared(&storage.is_rounded, static_cast<bool>(rounds_state));
    storage.queries.init(4 * groups);
    storage.d_barriers.init(4, 4 * 2);
    storage.told.init();
    if constexpr (std::same_as<T, half>)  // terms have their weights in full
      for (Pair& pair : storage.queries.pairs) device::store_shared(&pair.terms.weight, 1.0f);
  }
};

}  // namespace cottention::sm90
