// What AddressSanitizer must be told about stacks and memory. Empty in other builds.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define COTTENTION_EMULATION_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define COTTENTION_EMULATION_ADDRESS_SANITIZER 1
#endif
#endif

#ifdef COTTENTION_EMULATION_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace cottention::emulation::sanitizers {

#ifdef COTTENTION_EMULATION_ADDRESS_SANITIZER
inline void start_switch(void** fake_stack, const void* bottom, std::size_t bytes) {
  __sanitizer_start_switch_fiber(fake_stack, bottom, bytes);
}
inline void finish_switch(void* fake_stack, const void** bottom, std::size_t* bytes) {
  __sanitizer_finish_switch_fiber(fake_stack, bottom, bytes);
}
inline void poison(const void* from, std::size_t bytes) { __asan_poison_memory_region(from, bytes); }
inline void unpoison(const void* from, std::size_t bytes) { __asan_unpoison_memory_region(from, bytes); }
#else
inline void start_switch(void**, const void*, std::size_t) {}
inline void finish_switch(void*, const void**, std::size_t*) {}
inline void poison(const void*, std::size_t) {}
inline void unpoison(const void*, std::size_t) {}
#endif

}  // namespace cottention::emulation::sanitizers
