// The parameters of the kernels of a recurrence.
#pragma once

#include <cstdint>

#include <cottention/arguments.hpp>
#include <cottention/device/thread.cuh>
#include <cottention/problem.hpp>
#include <cottention/recurrence.hpp>
#include <cottention/tile/splits.cuh>

namespace cottention::kernel {

/// The parameters of the kernels of one recurrence: rows are those of a and the output, terms those of b and
/// c (kernel/roles.cuh). Blocks: x = batch index * heads_kv + key/value head, y = piece, z = block of columns
/// of c and of the output.
template <Element T>
struct RecurrenceParams {
  using A = Accumulate<T>;
  tile::View<const T> a, b, c;
  tile::View<const T> norm_input;  // x of the norm's backward, for outputs that have one
  tile::View<T> out;               // null: not wanted; the kernel runs for the state or the gradient of m
  ScaleLogit<A> scale_logit{};     // not given: all weights are 1
  const std::uint8_t *row_mask = nullptr, *term_mask = nullptr;
  tile::OffsetsView row_offsets, term_offsets;
  const A* initial_h = nullptr;
  const std::int64_t* initial_count = nullptr;
  A* final_h = nullptr;
  tile::SlotsView read_slots, write_slots;  // of initial_h and initial_count, and of final_h
  recurrence::StateLayout layout = recurrence::StateLayout::as_is;  // of initial_h and final_h
  A* partial_states = nullptr;  // (batch * heads_kv, v_tiles, max_pieces, partial_elements); null: sequences
                                // are not split
  tile::View<A> grad_normalized;  // gradients of normalised rows for Project; null: blocks hold whole rows
  double* scale_grad_partials =
      nullptr;  // (batch * heads_kv, pieces or M blocks) of the gradient of scale_logit; null: not wanted
  const int* redo_flags =
      nullptr;  // (batch * heads_kv, max_pieces) 0: Walk leaves the piece out; null: it does all of them
  /// Causal: whether the sum over the piece that is last in the walk is wanted.
  bool sums_last_piece = false;
  std::int64_t seq_rows = 0, seq_terms = 0;
  int row_group = 1, term_group = 1;  // heads of rows and of terms for each of heads_kv
  int heads_kv = 0;
  recurrence::SplitRule split_rule;
  int chunk = 0;     // of the Tiling: pieces are whole chunks, but for the last
  int m_blocks = 1;  // blocks that share the rows of a bidirectional head
  int v_tiles = 1;
  std::int64_t partial_elements = 0;  // of the state of one piece and V tile
};

/// The parameters of a kernel that makes dq, dk and dv together. Blocks: x = batch index * heads_kv +
/// key/value head, y = piece where the kernel takes sequences that are cut.
template <AnyProblem P>
struct GradientParams {
  using T = typename P::element;
  RecurrenceParams<T> dq, dk, dv;          // of each alone
  const Accumulate<T>* final_h = nullptr;  // null: summed first
  int* redo_flags = nullptr;  // (batch * heads_kv, max_pieces), causal: whether dq is to be done again
};

/// The partial state (partial_elements) of a piece, by its order in the walk, and a V tile, of the head of
/// block x.
template <Element T>
__device__ __forceinline__ Accumulate<T>* partial_state_of(const RecurrenceParams<T>& params, int v_tile,
                                                           int order) {
  const std::int64_t head_tile = std::int64_t{device::opaque(device::block_x())} * params.v_tiles + v_tile;
  return params.partial_states + (head_tile * params.split_rule.max_pieces + order) * params.partial_elements;
}

/// The count of a sequence's initial state.
template <Element T>
__device__ __forceinline__ std::int64_t initial_count_of(const RecurrenceParams<T>& params,
                                                         std::int64_t batch) {
  if (params.initial_count == nullptr) return 0;
  const std::int64_t slot = params.read_slots[batch];
  return slot < 0 ? 0 : device::load_global(params.initial_count + slot);
}

/// The place of the block's piece in an array (batch * heads_kv, max_pieces).
template <Element T>
__device__ __forceinline__ std::int64_t piece_index(const RecurrenceParams<T>& params) {
  return std::int64_t{device::opaque(device::block_x())} * params.split_rule.max_pieces +
         device::opaque(device::block_y());
}

}  // namespace cottention::kernel
