// Strided tensors of rank four, [batch, seq, heads, dim], in the caller's memory.
#pragma once

#include <cstdint>
#include <limits>

namespace cottention {

/// The stride that follows from the shape: rows one after the other, [batch, seq, heads, dim].
inline constexpr std::int64_t contiguous = std::numeric_limits<std::int64_t>::min();

/// Distances, in elements, between neighbours along batch, seq and heads. Neighbours along dim are adjacent.
/// Each may be left `contiguous`; then it is computed from the ones inside it. A stride of 0 repeats an input.
struct Strides {
  std::int64_t batch = contiguous;
  std::int64_t seq = contiguous;
  std::int64_t head = contiguous;
  friend constexpr bool operator==(const Strides&, const Strides&) = default;
};

/// Strides of a [batch, heads, seq, dim] tensor.
constexpr Strides bhsd_strides(std::int64_t seq, std::int64_t heads, std::int64_t dim) {
  return {.batch = heads * seq * dim, .seq = dim, .head = seq * dim};
}

/// `strides` with every `contiguous` replaced by its value.
constexpr Strides resolve(Strides strides, std::int64_t seq, std::int64_t heads, std::int64_t dim) {
  if (strides.head == contiguous) strides.head = dim;
  if (strides.seq == contiguous) strides.seq = heads * dim;
  if (strides.batch == contiguous) strides.batch = seq * heads * dim;
  return strides;
}

/// A view of [batch, seq, heads, dim]; in packed batches, of [tokens, heads, dim], and `strides.batch` is unused.
template <class T>
struct Tensor {
  T* data = nullptr;
  Strides strides{};
};

}  // namespace cottention
