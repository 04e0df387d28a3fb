// Strided tensors of rank four, [batch, seq, heads, dim], in the caller's memory.
#pragma once

#include <cottention/requirements.hpp>

#include <cstdint>
#include <limits>

namespace cottention {

/// The stride that follows from the shape and the strides inside: by default that of [batch, seq, heads,
/// dim].
inline constexpr std::int64_t contiguous = (std::numeric_limits<std::int64_t>::min)();
/// As Strides::head: heads lie outside of seq, so their stride follows from that of seq.
inline constexpr std::int64_t outside_seq = contiguous + 1;

/// Distances, in elements, between neighbours along batch, seq and heads. Neighbours along dim are adjacent.
/// Each may be left `contiguous`; then it follows from the ones inside it. A stride of 0 repeats an input.
struct Strides {
  std::int64_t batch = contiguous;
  std::int64_t seq = contiguous;
  std::int64_t head = contiguous;
  friend constexpr bool operator==(const Strides&, const Strides&) = default;
};

/// The layouts without gaps: [batch, seq, heads, dim], which is that of a tensor whose strides are left out,
/// and [batch, heads, seq, dim]. In packed batches [tokens, heads, dim] and [heads, tokens, dim], the extent
/// of the token axis being shape.seq_q or seq_k. The numbers follow from the extents of the call:
///
///     .q = {q, bhsd}
inline constexpr Strides bshd{};
inline constexpr Strides bhsd{.head = outside_seq};

#if !defined(__CUDACC_RTC__)  // strides that kernels see are resolved

/// The room that `count` neighbours at `stride` take, `alone` being that of a single one; the largest number
/// where it does not fit 64 bits.
constexpr std::int64_t room(std::int64_t count, std::int64_t stride, std::int64_t alone) {
  if (count == 1) return alone;
  std::int64_t product = 0;
  if (__builtin_mul_overflow(count, stride, &product) || product == contiguous)
    return (std::numeric_limits<std::int64_t>::max)();
  return product < 0 ? -product : product;
}

/// `strides` in numbers, every `contiguous` and `outside_seq` replaced by the room that the axes inside take:
/// rows one after the other where no stride is given, and one [seq, heads, dim] block after the other where
/// only `seq` or `head` is.
constexpr Strides resolve(Strides strides, std::int64_t seq, std::int64_t heads, std::int64_t dim) {
  if (strides.head == outside_seq) {
    if (strides.seq == contiguous) strides.seq = dim;
    strides.head = room(seq, strides.seq, dim);
  }
  if (strides.head == contiguous) strides.head = dim;
  if (strides.seq == contiguous) strides.seq = room(heads, strides.head, dim);
  if (strides.batch == contiguous) {
    const std::int64_t all_heads = room(heads, strides.head, dim),
                       all_rows = room(seq, strides.seq, all_heads);
    strides.batch = all_rows > all_heads ? all_rows : all_heads;
  }
  return strides;
}

/// What bhsd stands for, in numbers.
constexpr Strides bhsd_strides(std::int64_t seq, std::int64_t heads, std::int64_t dim) {
  return resolve(bhsd, seq, heads, dim);
}

#endif

/// A view of [batch, seq, heads, dim]; in packed batches, of [tokens, heads, dim], and `strides.batch` is
/// unused.
template <class T>
struct Tensor {
  T* data = nullptr;
  Strides strides{};
};

}  // namespace cottention
