// Registers that change hands between the warpgroups of a block; here there are enough.
#pragma once

#include <cuda_runtime.h>

namespace cottention::device {

template <int registers>
void setmaxnreg_dec(emulation::Where where = emulation::Where::current()) {
  static_assert(registers >= 24 && registers <= 256 && registers % 8 == 0);
  emulation::set_registers(registers, where);
}

template <int registers>
void setmaxnreg_inc(emulation::Where where = emulation::Where::current()) {
  static_assert(registers >= 24 && registers <= 256 && registers % 8 == 0);
  emulation::set_registers(registers, where);
}

}  // namespace cottention::device
