// One sequence of a batch on the device: its queries or its keys, and the rows of one of their heads.
#pragma once

#include <cstdint>

#include <cottention/arguments.hpp>
#include <cottention/device/memory.cuh>

namespace cottention::tile {

/// Rows of one head of one sequence, (length, dim): row r is at data + r stride, 0 <= r < length. A masked
/// row counts as zeros; its elements are not read.
template <class T>
struct RowView {
  T* data = nullptr;
  std::int64_t stride = 0;
  int length = 0;
  const std::uint8_t* mask = nullptr;  // one byte a row, in global memory; null: all valid

  __device__ __forceinline__ T* row(int r) const { return data + r * stride; }
  /// Whether row r exists and is not masked.
  __device__ __forceinline__ bool contains(int r) const {
    return r < length && (mask == nullptr || device::load_global(mask + r) != 0);
  }
};

/// A tensor (batch, seq, head, dim) with all strides resolved, in elements; that of dim is 1.
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

/// cu_seqlens (batch + 1) in global memory, of int32 or int64; both null: the batch is not packed.
struct OffsetsView {
  const std::int32_t* int32 = nullptr;
  const std::int64_t* int64 = nullptr;

  __device__ __forceinline__ bool given() const { return int32 != nullptr || int64 != nullptr; }
  __device__ __forceinline__ std::int64_t operator[](std::int64_t i) const {
    return int32 != nullptr ? device::load_global(int32 + i) : device::load_global(int64 + i);
  }
};

inline OffsetsView view(const Offsets& offsets) { return {offsets.int32(), offsets.int64()}; }

/// Which slot of an array of states each sequence of a batch has, (batch) in global memory; null: sequence b
/// has slot b. Slots lie in device memory, where validation does not read them: one outside the pool counts
/// as none.
struct SlotsView {
  const std::int32_t* data = nullptr;
  std::int64_t pool_slots = 0;

  __device__ __forceinline__ bool given() const { return data != nullptr; }
  /// -1: none.
  __device__ __forceinline__ std::int64_t operator[](std::int64_t batch) const {
    if (!given()) return batch;
    const std::int64_t slot = device::load_global(data + batch);
    return slot < pool_slots && slot >= 0 ? slot : -1;
  }
};

/// The queries or the keys of one sequence. Validation on the host ensures that 32 bits count the rows;
/// addresses take 64.
struct SequenceSide {
  std::int64_t start = 0;
  int length = 0;
  const std::uint8_t* mask = nullptr;  // of the sequence's first position
  bool packed = false;

  __device__ __forceinline__ SequenceSide(const OffsetsView& offsets, const std::uint8_t* masks,
                                          std::int64_t batch, std::int64_t seq) {
    packed = offsets.given();
    start = packed ? offsets[batch] : 0;
    const std::int64_t end = packed ? offsets[batch + 1] : seq;
    // Offsets lie in device memory, where validation does not read them. A sequence whose offsets lead out of
    // the tensors is empty.
    if (start < 0 || end < start || end > seq) {
      start = 0;
    } else {
      length = static_cast<int>(end - start);
    }
    if (masks != nullptr) mask = masks + (packed ? start : batch * seq);
  }

  /// The rows of one head.
  template <class T>
  __device__ __forceinline__ RowView<T> rows(const View<T>& view, std::int64_t batch,
                                             std::int64_t head) const {
    return {view.data + (packed ? start * view.seq : batch * view.batch) + head * view.head, view.seq, length,
            mask};
  }
};

}  // namespace cottention::tile
