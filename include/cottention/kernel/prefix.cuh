// States of pieces into states up to and including each piece, always added in the order of the walk.
#pragma once

#include <cottention/device/math.cuh>
#include <cottention/kernel/params.cuh>
#include <cottention/problem.hpp>

namespace cottention::kernel {

/// In place over the partial states of a head's pieces, which are rows of numbers here: one kernel serves
/// every recurrence and Tiling. Blocks: x as in RecurrenceParams, y = part of an image, z = block of columns.
/// Bidirectional attention needs the last sum alone.
template <Element T, Mask mask>
struct Prefix {
  static constexpr int threads = 128;
  static constexpr int min_blocks_per_sm = 1;

  using Params = RecurrenceParams<T>;
  struct Storage {};

  using A = Accumulate<T>;
  static constexpr int lane_elements = 16 / static_cast<int>(sizeof(A));
  using Lane = device::Vector<A, lane_elements>;
  /// Blocks in y for an image.
  static constexpr std::int64_t parts(std::int64_t partial_elements) {
    return (partial_elements + threads * lane_elements - 1) / (threads * lane_elements);
  }

  static __device__ __forceinline__ void run(const Params& params, Storage&) {
    const std::int64_t element =
        (std::int64_t{device::block_y()} * threads + device::thread_index()) * lane_elements;
    if (element >= params.partial_elements) return;
    const std::int64_t batch = device::block_x() / params.heads_kv;
    const tile::Side rows(params.row_offsets, nullptr, batch, params.seq_rows);
    const tile::Side terms(params.term_offsets, nullptr, batch, params.seq_terms);
    const tile::Pieces pieces(tile::walk_length<mask>(rows, terms), params.split_rule, params.chunk);
    const int count = pieces.count - (mask == Mask::causal ? 1 : 0);
    const auto place = [&](int piece) {
      return reinterpret_cast<Lane*>(partial_state_of(params, device::block_z(), piece) + element);
    };
    if (count <= 1) return;
    Lane total = device::load_global(place(0));
#pragma unroll 4
    for (int piece = 1; piece < count; ++piece) {
      const Lane own = device::load_global(place(piece));
#pragma unroll
      for (int e = 0; e < lane_elements; ++e) total[e] = device::add_rn(total[e], own[e]);
      if (mask == Mask::causal || piece == count - 1) device::store_global(place(piece), total);
    }
  }
};

}  // namespace cottention::kernel
