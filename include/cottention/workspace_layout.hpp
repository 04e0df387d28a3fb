// Places the parts of a call's scratch memory one after the other. The same function, given no memory, counts
// the bytes that it would place: that is `workspace_bytes`.
#pragma once

#include <cottention/requirements.hpp>

#include <cottention/host_only.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>

#include <cottention/arguments.hpp>
#include <cottention/overlap.hpp>

namespace cottention::detail {

/// The smallest multiple of `multiple` that is at least `value`, which is not negative.
constexpr std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// Takes arrays out of `memory`, which is aligned to `alignment`, as is every array. Without memory it
/// counts.
class Carver {
 public:
  explicit Carver(void* memory = nullptr, std::size_t alignment = workspace_alignment)
      : memory_(static_cast<std::byte*>(memory)), alignment_(static_cast<std::int64_t>(alignment)) {}

  /// An array of as many elements as the product of `counts`, none of them negative; null without memory, and
  /// where there are no addresses for so many bytes.
  template <class T, class... Counts>
  T* take(Counts... counts) {
    const std::int64_t at = bytes_;
    std::int64_t part = sizeof(T);
    const bool counted = (!__builtin_mul_overflow(part, std::int64_t{counts}, &part) && ...);
    if (!counted || part > largest_span - at) {
      fits_ = false;
      return nullptr;
    }
    bytes_ += round_up(part, alignment_);
    return memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + at);
  }

  /// Bytes taken so far, the last array rounded up to the alignment; 0 where they do not fit.
  std::size_t bytes() const { return fits_ ? static_cast<std::size_t>(bytes_) : 0; }
  /// The same as a count for the carver of a larger workspace; no workspace has room for it where they do not
  /// fit.
  std::int64_t extent() const { return fits_ ? bytes_ : (std::numeric_limits<std::int64_t>::max)(); }
  /// Whether there are addresses for so many bytes.
  bool fits() const { return fits_; }

 private:
  std::byte* memory_;
  std::int64_t alignment_;
  std::int64_t bytes_ = 0;
  bool fits_ = true;
};

}  // namespace cottention::detail
