// Calls as those on a device with more blocks than multiprocessors, which get other tilings.
#pragma once

#include <utility>

#if __has_include(<emulation.hpp>)
#include <emulation.hpp>
#endif

namespace support {

/// While it lives, any block is one of many to the library. In the emulator; a GPU has the multiprocessors it
/// has.
class ManyBlocks {
 public:
  ManyBlocks() = default;
  ~ManyBlocks() { set(before_); }
  ManyBlocks(const ManyBlocks&) = delete;
  ManyBlocks& operator=(const ManyBlocks&) = delete;

 private:
  /// Returns what there were.
  static int set([[maybe_unused]] int multiprocessors) {
#if __has_include(<emulation.hpp>)
    return std::exchange(cottention::emulation::options().multiprocessors, multiprocessors);
#else
    return 0;
#endif
  }
  int before_ = set(0);
};

}  // namespace support
