// One sequence of a batch, on the device: its queries or keys, and the rows of one head among them.
#pragma once

#include <cstdint>

#include <cottention/arguments.hpp>
#include <cottention/device/memory.cuh>

namespace cottention::tile {

/// Row r at data + r stride, 0 <= r < length. A masked row reads as zeros, whatever bits it holds.
template <class T>
struct RowView {
  T* data = nullptr;
  std::int64_t stride = 0;
  int length = 0;
  const std::uint8_t* mask = nullptr;  // one byte a row, in global memory; null: all valid

  __device__ __forceinline__ T* row(int r) const { return data + r * stride; }
  __device__ __forceinline__ bool contains(int r) const {
    return r < length && (mask == nullptr || device::load_global(mask + r) != 0);
  }
};

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
  __device__ __forceinline__ RowView<T> rows(const View<T>& view, std::int64_t batch,
                                             std::int64_t head) const {
    return {view.data + (packed ? start * view.seq : batch * view.batch) + head * view.head, view.seq, length,
            mask};
  }
};

}  // namespace cottention::tile
