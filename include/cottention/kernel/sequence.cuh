// From the arguments of a call to the rows of one head of one sequence, on the device.
#pragma once

#include <cstdint>

#include <cottention/arguments.hpp>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/problem.hpp>
#include <cottention/tile/rows.cuh>
#include <cottention/tile/state.cuh>

namespace cottention::kernel {

/// A tensor with every stride known.
template <class T>
struct View {
  T* data = nullptr;
  std::int64_t batch = 0, seq = 0, head = 0;
};
template <class T>
View<T> view(const Tensor<T>& tensor, std::int64_t seq, std::int64_t heads, std::int64_t dim) {
  const Strides s = resolve(tensor.strides, seq, heads, dim);
  return {tensor.data, s.batch, s.seq, s.head};
}

/// cu_seqlens in global memory.
struct OffsetsView {
  const std::int32_t* int32 = nullptr;
  const std::int64_t* int64 = nullptr;

  __device__ __forceinline__ bool given() const { return int32 != nullptr || int64 != nullptr; }
  __device__ __forceinline__ std::int64_t operator[](std::int64_t i) const {
    return int32 != nullptr ? device::load_global(int32 + i) : device::load_global(int64 + i);
  }
};

inline OffsetsView view(const Offsets& offsets) { return {offsets.int32(), offsets.int64()}; }

/// One side, queries or keys, of one sequence. Its rows are counted in 32 bits (the host sees to that), their
/// addresses in 64.
struct Side {
  std::int64_t start = 0;
  int length = 0;
  const std::uint8_t* mask = nullptr;  // of the sequence's first position
  bool packed = false;

  __device__ __forceinline__ Side(const OffsetsView& offsets, const std::uint8_t* masks, std::int64_t batch,
                                  std::int64_t seq) {
    packed = offsets.given();
    start = packed ? offsets[batch] : 0;
    const std::int64_t end = packed ? offsets[batch + 1] : seq;
    // Offsets lie on the device, where no call checks them. Here they cannot lead out of the tensors.
    if (start < 0 || end < start || end > seq) {
      start = 0;
    } else {
      length = static_cast<int>(end - start);
    }
    if (masks != nullptr) mask = masks + (packed ? start : batch * seq);
  }

  template <class T>
  __device__ __forceinline__ tile::Rows<T> rows(const View<T>& view, std::int64_t batch,
                                                std::int64_t head) const {
    return {view.data + (packed ? start * view.seq : batch * view.batch) + head * view.head, view.seq, length,
            mask};
  }
};

/// Into how many pieces a sequence is cut.
struct SplitRule {
  int wanted = 1;      // pieces
  int min_rows = 0;    // rows of a piece, at least
  int max_rows = 0;    // at most, as far as `most` allows; 0: any number
  int max_pieces = 1;  // pieces that the launch has room for
};

/// A sequence in pieces of `rows` that are summed apart: as many as are wanted and no piece is too long for,
/// or as many as have room at `shortest` rows each. The whole batch's length limits the launch, but never to
/// less than a sequence of it has room for; so the rest of a batch has no say in a sequence's bits.
struct Pieces {
  int rows = 0;
  int count = 1;  // at least 1: an empty sequence has one empty piece

  __device__ __forceinline__ Pieces(int length, const SplitRule& split_rule, int chunk) {
    if (length == 0) return;
    int wanted = split_rule.wanted;
    if (split_rule.max_rows > 0 && (length - 1) / split_rule.max_rows >= wanted)
      wanted = (length - 1) / split_rule.max_rows + 1;
    if (wanted > split_rule.max_pieces) wanted = split_rule.max_pieces;
    if (wanted > 1 && length / split_rule.min_rows < wanted)
      wanted = length < split_rule.min_rows ? 1 : length / split_rule.min_rows;
    rows = ((length - 1) / wanted / chunk + 1) * chunk;
    count = (length - 1) / rows + 1;
  }
  __device__ __forceinline__ int first(int piece) const { return piece * rows; }
  __device__ __forceinline__ int last(int piece, int length) const {
    return piece == count - 1 ? length : (piece + 1) * rows;
  }
};

/// Positions that a recurrence goes through. Without query heads one side has none, but a causal walk still
/// meets the other.
template <Mask mask>
__device__ __forceinline__ int walk_length(const Side& rows, const Side& terms) {
  return mask == Mask::causal && terms.length == 0 ? rows.length : terms.length;
}

/// What the kernels over heads are given, in the words of kernel/roles.cuh. Blocks: x = batch index *
/// heads_kv + key/value head, y = piece, z = block of columns of c and the output.
template <Element T>
struct RecurrenceParams {
  using A = Accumulate<T>;
  View<const T> a, b, c;
  View<const T> norm_input;     // the rows whose norm the output goes through, beside those of a
  View<T> out;                  // null: not wanted, only what is summed on the way
  ScaleLogit<A> scale_logit{};  // not given: nothing to weigh
  const std::uint8_t *row_mask = nullptr, *term_mask = nullptr;
  OffsetsView row_offsets, term_offsets;
  const A* initial_h = nullptr;
  const std::int64_t* initial_count = nullptr;
  A* final_h = nullptr;
  tile::StateLayout layout = tile::StateLayout::as_is;  // of both
  A* partial_states = nullptr;  // states of pieces, [batch head][column block][piece][partial state]; null:
                                // sequences are not cut
  View<A> grad_normalized;      // rows that blocks of columns leave to Project; null: they hold whole rows
  double* scale_grad_partials =
      nullptr;  // [batch head][piece or M block], for the gradient of scale_logit; null: not wanted
  const int* redo_flags = nullptr;  // [batch head], which heads Walk is to do again; null: all
  std::int64_t seq_rows = 0, seq_terms = 0;
  int row_group = 1, term_group = 1;  // heads for each of heads_kv
  int heads_kv = 0;
  SplitRule split_rule;
  int chunk = 0;     // of the Tiling: pieces end with one
  int m_blocks = 1;  // blocks that share the rows of a bidirectional head
  int column_blocks = 1;
  std::int64_t partial_elements = 0;
};

/// The state of a piece, of block x's head and a block of columns.
template <Element T>
__device__ __forceinline__ Accumulate<T>* partial_state_of(const RecurrenceParams<T>& params,
                                                           int column_block, int piece) {
  const std::int64_t unit = std::int64_t{device::block_x()} * params.column_blocks + column_block;
  return params.partial_states + (unit * params.split_rule.max_pieces + piece) * params.partial_elements;
}

}  // namespace cottention::kernel
