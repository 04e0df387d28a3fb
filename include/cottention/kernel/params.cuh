// What the kernels over heads are launched with.
#pragma once

#include <cstdint>

#include <cottention/arguments.hpp>
#include <cottention/device/thread.cuh>
#include <cottention/problem.hpp>
#include <cottention/tile/splits.cuh>
#include <cottention/tile/state_layout.cuh>

namespace cottention::kernel {

/// What the kernels over heads are given, in the words of kernel/roles.cuh. Blocks: x = batch index *
/// heads_kv + key/value head, y = piece, z = block of columns of c and the output.
template <Element T>
struct RecurrenceParams {
  using A = Accumulate<T>;
  tile::View<const T> a, b, c;
  tile::View<const T> norm_input;  // the rows whose norm the output goes through, beside those of a
  tile::View<T> out;               // null: not wanted, only what is summed on the way
  ScaleLogit<A> scale_logit{};     // not given: nothing to weigh
  const std::uint8_t *row_mask = nullptr, *term_mask = nullptr;
  tile::OffsetsView row_offsets, term_offsets;
  const A* initial_h = nullptr;
  const std::int64_t* initial_count = nullptr;
  A* final_h = nullptr;
  tile::StateLayout layout = tile::StateLayout::as_is;  // of both
  A* partial_states = nullptr;    // states of pieces, [batch head][column block][piece][partial state]; null:
                                  // sequences are not cut
  tile::View<A> grad_normalized;  // rows that blocks of columns leave to Project; null: they hold whole rows
  double* scale_grad_partials =
      nullptr;  // [batch head][piece or M block], for the gradient of scale_logit; null: not wanted
  const int* redo_flags = nullptr;  // [batch head], which heads Walk is to do again; null: all
  std::int64_t seq_rows = 0, seq_terms = 0;
  int row_group = 1, term_group = 1;  // heads for each of heads_kv
  int heads_kv = 0;
  tile::SplitRule split_rule;
  int chunk = 0;     // of the Tiling: pieces end with one
  int m_blocks = 1;  // blocks that share the rows of a bidirectional head
  int v_tiles = 1;
  std::int64_t partial_elements = 0;
};

/// The state of a piece, of block x's head and a block of columns.
template <Element T>
__device__ __forceinline__ Accumulate<T>* partial_state_of(const RecurrenceParams<T>& params,
                                                           int column_block, int piece) {
  const std::int64_t unit = std::int64_t{device::block_x()} * params.v_tiles + column_block;
  return params.partial_states + (unit * params.split_rule.max_pieces + piece) * params.partial_elements;
}

}  // namespace cottention::kernel
