// Calls as those on a device that the wgmma engine is not for.
#pragma once

#if __has_include(<emulation.hpp>)
#include <emulation.hpp>
#endif

namespace support {

/// While it lives, the device has compute capability 8.0. In the emulator; a GPU is what it is.
struct MmaSyncAlone {
#if __has_include(<emulation.hpp>)
  cottention::emulation::RestoredOptions restored;
  MmaSyncAlone() { cottention::emulation::options().compute_capability = 80; }
#else
  MmaSyncAlone() {}
#endif
};

}  // namespace support
