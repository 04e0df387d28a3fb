// Memory that shows misuse: born as NaN, between guard zones that must stay as they are.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include <sanitizer/asan_interface.h>

#include <cottention/arguments.hpp>

namespace support {

/// Every byte of guard zones and of new buffers: all ones is a NaN in every element type.
inline constexpr unsigned char nan_byte = 0xff;

/// `count` values of T, all bytes `nan_byte`, with a guard zone before and after. The first value lies
/// `offset` bytes past a multiple of 64. Under AddressSanitizer the zones may not even be read.
template <class T>
class Buffer {
 public:
  explicit Buffer(std::int64_t count, std::size_t offset = alignof(T))
      : bytes_(static_cast<std::size_t>(count) * sizeof(T)),
        offset_(guard + offset),
        memory_(static_cast<unsigned char*>(::operator new(size(), alignment))) {
    std::memset(memory_.get(), nan_byte, size());
    forbid_zones();
  }

  T* data() { return reinterpret_cast<T*>(memory_.get() + offset_); }
  const T* data() const { return reinterpret_cast<const T*>(memory_.get() + offset_); }
  std::int64_t count() const { return static_cast<std::int64_t>(bytes_ / sizeof(T)); }
  T& operator[](std::int64_t i) { return data()[i]; }
  const T& operator[](std::int64_t i) const { return data()[i]; }

  bool guards_untouched() const {
    ASAN_UNPOISON_MEMORY_REGION(memory_.get(), size());
    const auto untouched_from = [this](std::size_t first, std::size_t count) {
      return std::all_of(memory_.get() + first, memory_.get() + first + count,
                         [](unsigned char byte) { return byte == nan_byte; });
    };
    const bool untouched = untouched_from(0, offset_) && untouched_from(offset_ + bytes_, guard);
    forbid_zones();
    return untouched;
  }

  /// Whether value i still has the bytes it was born with.
  bool unwritten(std::int64_t i) const {
    const auto* value = reinterpret_cast<const unsigned char*>(data() + i);
    for (std::size_t byte = 0; byte < sizeof(T); ++byte)
      if (value[byte] != nan_byte) return false;
    return true;
  }

 private:
  static constexpr std::size_t guard = 256;
  static constexpr std::align_val_t alignment{64};

  struct Free {
    std::size_t size;
    void operator()(unsigned char* memory) const {
      ASAN_UNPOISON_MEMORY_REGION(memory, size);
      ::operator delete(memory, alignment);
    }
  };

  std::size_t size() const { return offset_ + bytes_ + guard; }
  void forbid_zones() const {
    ASAN_POISON_MEMORY_REGION(memory_.get(), offset_);
    ASAN_POISON_MEMORY_REGION(memory_.get() + offset_ + bytes_, guard);
  }

  std::size_t bytes_, offset_;
  std::unique_ptr<unsigned char, Free> memory_;
};

/// How a [batch, seq, heads, dim] tensor lies in memory.
enum class Layout {
  bshd,  ///< contiguous, strides left to their defaults
  bhsd,  ///< [batch, heads, seq, dim]
  gaps,  ///< [batch, seq, heads, dim] with unused values after every row, every position and every sequence
  aligned_gaps,  ///< likewise, in multiples of 16 bytes, as devices ask
};

/// A tensor in a buffer of its own. Packed tensors have batch 1.
template <cottention::Element T>
class TensorBuffer {
 public:
  TensorBuffer(Layout layout, std::int64_t batch, std::int64_t seq, std::int64_t heads, std::int64_t dim)
      : batch_(batch),
        seq_(seq),
        heads_(heads),
        dim_(dim),
        given_(strides_of(layout, seq, heads, dim)),
        strides_(cottention::resolve(given_, seq, heads, dim)),
        buffer_(batch * (layout == Layout::gaps || layout == Layout::aligned_gaps ? strides_.batch
                                                                                  : seq * heads * dim)) {}

  cottention::Tensor<T> view() { return {buffer_.data(), given_}; }
  cottention::Tensor<const T> view() const { return {buffer_.data(), given_}; }

  /// A row, (dim). `position` counts over [batch, seq].
  T* row(std::int64_t position, std::int64_t h) { return buffer_.data() + address(position, h); }
  const T* row(std::int64_t position, std::int64_t h) const { return buffer_.data() + address(position, h); }

  std::int64_t positions() const { return batch_ * seq_; }
  std::int64_t heads() const { return heads_; }
  std::int64_t dim() const { return dim_; }

  /// All values, contiguous: [batch, seq, heads, dim].
  std::vector<double> values() const {
    std::vector<double> all;
    all.reserve(static_cast<std::size_t>(positions() * heads_ * dim_));
    for (std::int64_t position = 0; position < positions(); ++position)
      for (std::int64_t h = 0; h < heads_; ++h)
        for (std::int64_t d = 0; d < dim_; ++d) all.push_back(cottention::to_double(row(position, h)[d]));
    return all;
  }

  /// Whether nothing outside the tensor's own values was written, guard zones and gaps between rows alike.
  bool surroundings_untouched() const {
    std::vector<char> used(static_cast<std::size_t>(buffer_.count()));
    for (std::int64_t position = 0; position < positions(); ++position)
      for (std::int64_t h = 0; h < heads_; ++h)
        for (std::int64_t d = 0; d < dim_; ++d) used.data()[address(position, h) + d] = 1;
    for (std::int64_t i = 0; i < buffer_.count(); ++i)
      if (used.data()[i] == 0 && !buffer_.unwritten(i)) return false;
    return buffer_.guards_untouched();
  }

 private:
  static cottention::Strides strides_of(Layout layout, std::int64_t seq, std::int64_t heads,
                                        std::int64_t dim) {
    if (layout == Layout::bshd) return {};
    if (layout == Layout::bhsd) return cottention::bhsd;
    const std::int64_t unit = layout == Layout::aligned_gaps ? 8 : 1;
    const std::int64_t head = dim + 3 * unit, position = heads * head + 5 * unit;
    return {.batch = seq * position + 7 * unit, .seq = position, .head = head};
  }

  std::int64_t address(std::int64_t position, std::int64_t h) const {
    return position / seq_ * strides_.batch + position % seq_ * strides_.seq + h * strides_.head;
  }

  std::int64_t batch_, seq_, heads_, dim_;
  cottention::Strides given_, strides_;
  Buffer<T> buffer_;
};

}  // namespace support
