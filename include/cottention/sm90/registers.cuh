// How the warpgroups of a block share its registers.
#pragma once

#include <cottention/device/registers.cuh>

namespace cottention::sm90 {

/// Registers a thread of the first warpgroup, and of the others, which take `others`, where blocks of
/// `threads` threads are to find room for `blocks` on a multiprocessor.
template <int threads, int blocks, int others_>
struct RegisterShares {
  static constexpr int average = 65536 / (threads * blocks) / 8 * 8;  // what a kernel starts with
  static constexpr int others = others_;
  static constexpr int spare = average * (threads / 128) - others * (threads / 128 - 1);
  static constexpr int first = spare < 240 ? spare : 240;
};

/// Takes the warpgroup's share. Scope: warpgroup, each of a block once.
template <int registers, int average>
__device__ __forceinline__ void set_registers() {
  if constexpr (registers > average)
    device::setmaxnreg_inc<registers>();
  else if constexpr (registers < average)
    device::setmaxnreg_dec<registers>();
}

}  // namespace cottention::sm90
