// Whether more is tried, which takes the emulator long: on a GPU, and with COTTENTION_EMULATED_WIDE.
#pragma once

namespace support {

#if __has_include(<emulation.hpp>) && !defined(COTTENTION_TEST_WIDE)
inline constexpr bool is_wide = false;
#else
inline constexpr bool is_wide = true;
#endif

}  // namespace support
