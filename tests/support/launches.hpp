// How many kernels a call launches, as the emulator counts them. On a GPU nothing counts them.
#pragma once

#if __has_include(<emulation.hpp>)
#include <emulation.hpp>
#endif

#include "support/catch.hpp"

namespace support {

/// Counts launches from here on.
class LaunchCount {
 public:
  /// Holds the emulator's count to what `choice` said of the call.
  void check([[maybe_unused]] int expected) const {
#if __has_include(<emulation.hpp>)
    CHECK(now() - before_ == expected);
#endif
  }

 private:
  static int now() {
#if __has_include(<emulation.hpp>)
    return static_cast<int>(cottention::emulation::launches().size());
#else
    return 0;
#endif
  }
  int before_ = now();
};

}  // namespace support
