// The rows of a tensor as a walk reads and writes them.
#pragma once

#include <cstdint>

namespace cottention::cpu {

/// The rows of one head of one sequence in the order of the walk: row t is at data + t * stride, (length,
/// dim). A masked row reads as 0 whatever bits it holds, and is written as 0.
template <class T>
struct RowView {
  T* data = nullptr;
  std::int64_t stride = 0;
  const std::uint8_t* mask = nullptr;  // one byte for each row; null: every row is valid
  std::int64_t mask_stride = 0;
  std::int64_t dim = 0;

  T* row(std::int64_t t) const { return data + t * stride; }
  bool valid(std::int64_t t) const { return mask == nullptr || mask[t * mask_stride] != 0; }

  RowView from(std::int64_t t) const {
    return {data + t * stride, stride, mask == nullptr ? nullptr : mask + t * mask_stride, mask_stride, dim};
  }
};

/// What pack_* does to rows: keeps them, or divides them by max(||x||, eps).
enum class Norm { keep, normalize };

/// One of the operands a, b, c or the output of a walk: the rows of one tensor for each head of the task.
template <class T>
struct OperandView {
  RowView<T> rows;               // of the first head
  std::int64_t head_stride = 0;  // to the same row of the next head
  Norm norm = Norm::keep;
  bool weighted = false;

  RowView<T> of(std::int64_t head, std::int64_t first) const {
    RowView<T> at = rows.from(first);
    at.data += head * head_stride;
    return at;
  }
};

}  // namespace cottention::cpu
