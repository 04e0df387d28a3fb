// State passing between the pieces of a sequence: an inclusive prefix sum of their partial states, always
// added in the order of the walk.
#pragma once

#include <cottention/device/math.cuh>
#include <cottention/kernel/params.cuh>
#include <cottention/problem.hpp>

namespace cottention::kernel {

/// Replaces the partial state of each piece of a head by the sum of those up to and including it; a thread
/// owns the same 16 bytes of every state. The order of elements in a partial state is that of its Tiling, and
/// does not matter here: one kernel serves every recurrence and Tiling. Blocks: x and z as in
/// RecurrenceParams, y = part of a partial state. Causal walks do not read the last sum, which is
/// computed where sums_last_piece asks for it; bidirectional ones read no other.
template <Element T, Mask mask>
struct Prefix {
  static constexpr int threads = 128;
  static constexpr int min_blocks_per_sm = 1;

  using Params = RecurrenceParams<T>;
  struct Storage {};

  using A = Accumulate<T>;
  static constexpr int vec_size = 16 / static_cast<int>(sizeof(A));
  using Vec = device::Vector<A, vec_size>;
  /// The number of blocks in y.
  static constexpr std::int64_t parts(std::int64_t partial_elements) {
    return (partial_elements + threads * vec_size - 1) / (threads * vec_size);
  }

  static __device__ __forceinline__ void run(const Params& params, Storage&) {
    const std::int64_t element =
        (std::int64_t{device::block_y()} * threads + device::thread_index()) * vec_size;
    if (element >= params.partial_elements) return;
    const std::int64_t batch = device::block_x() / params.heads_kv;
    const tile::SequenceSide rows(params.row_offsets, nullptr, batch, params.seq_rows);
    const tile::SequenceSide terms(params.term_offsets, nullptr, batch, params.seq_terms);
    const tile::Pieces pieces(tile::walk_length<mask>(rows, terms), params.split_rule, params.chunk);
    const int count = pieces.count - (mask == Mask::causal && !params.sums_last_piece ? 1 : 0);
    const auto at = [&](int piece) {
      return reinterpret_cast<Vec*>(partial_state_of(params, device::block_z(), piece) + element);
    };
    if (count <= 1) return;
    Vec total = device::load_global(at(0));
#pragma unroll 4
    for (int piece = 1; piece < count; ++piece) {
      const Vec own = device::load_global(at(piece));
#pragma unroll
      for (int e = 0; e < vec_size; ++e) total[e] = device::add_rn(total[e], own[e]);
      if (mask == Mask::causal || piece == count - 1) device::store_global(at(piece), total);
    }
  }
};

}  // namespace cottention::kernel
