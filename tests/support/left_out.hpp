// Kernels that a program goes without, by specialisations of is_left_out: calls choose among kernels of which
// a program may never launch some, and all are compiled with the calls. To the library the device has their
// code; a launch is refused, and the call with it. All sources of a program leave out the same kernels.
//
// With COTTENTION_TEST_WITHOUT_KERNELS, for what is compiled but never run, a program goes without all.
#pragma once

#if __has_include(<emulation.hpp>)

#include <cottention/device/entry.cuh>  // is_left_out

#else

#include <cstdint>

#include <cottention/device/launch.cuh>

namespace cottention::device {

template <class Kernel>
inline constexpr bool is_left_out = false;
#ifdef COTTENTION_TEST_WITHOUT_KERNELS
inline constexpr bool are_all_left_out = true;
#else
inline constexpr bool are_all_left_out = false;
#endif

/// Without the entry, which nvcc compiles wherever it is named.
template <class Kernel>
requires(are_all_left_out || is_left_out<Kernel>) struct [[gnu::visibility("hidden")]] Prepared<Kernel> {
  void (*entry)(typename Kernel::Params) = nullptr;

  bool in(std::uint64_t) const { return true; }
  bool lacks(std::uint64_t) const { return false; }
  void add(std::uint64_t) {}
  void add_lacking(std::uint64_t) {}

  static Prepared instance;
};
template <class Kernel>
requires(are_all_left_out ||
         is_left_out<Kernel>) constinit inline Prepared<Kernel> Prepared<Kernel>::instance{};

}  // namespace cottention::device

#endif
