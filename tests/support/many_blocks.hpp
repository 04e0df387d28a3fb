// Calls as those on a device with more blocks than multiprocessors, which get other tilings.
#pragma once

#if __has_include(<emulation.hpp>)
#include <emulation.hpp>
#endif

namespace support {

/// While it lives, any block is one of many to the library. In the emulator; a GPU has the multiprocessors it
/// has.
class ManyBlocks {
 public:
#if __has_include(<emulation.hpp>)
  ManyBlocks() { cottention::emulation::options().multiprocessors = 0; }
  ~ManyBlocks() { cottention::emulation::options().multiprocessors = before_; }

 private:
  int before_ = cottention::emulation::options().multiprocessors;

 public:
#else
  ManyBlocks() {}
  ~ManyBlocks() {}
#endif
  ManyBlocks(const ManyBlocks&) = delete;
  ManyBlocks& operator=(const ManyBlocks&) = delete;
};

}  // namespace support
