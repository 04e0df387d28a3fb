// A workspace of exactly the size asked for, full of NaN, whose surroundings must stay untouched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <cottention/arguments.hpp>

#include "support/buffer.hpp"

namespace support {

class ExactWorkspace {
 public:
  explicit ExactWorkspace(std::size_t bytes) : buffer_(static_cast<std::int64_t>(bytes), 0) {}

  /// Fills it with a value, as far as whole ones go.
  template <class A>
  void fill(const A& value) {
    for (std::int64_t i = 0; (i + 1) * static_cast<std::int64_t>(sizeof value) <= buffer_.count(); ++i)
      std::memcpy(buffer_.data() + i * static_cast<std::int64_t>(sizeof value), &value, sizeof value);
  }

  /// Null when no bytes were asked for.
  cottention::Workspace view() {
    const auto bytes = static_cast<std::size_t>(buffer_.count());
    return {bytes == 0 ? nullptr : buffer_.data(), bytes};
  }

  bool guards_untouched() const { return buffer_.guards_untouched(); }

 private:
  static_assert(cottention::workspace_alignment == 64, "Buffer aligns to 64 bytes");
  Buffer<unsigned char> buffer_;
};

}  // namespace support
