// From statements to instructions with handlers and places of registers.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "forms.hpp"

namespace cottention::ptx {

using Addresses = std::map<std::string, std::uint64_t, std::less<>>;  ///< of variables in global memory

/// Throws Error where it does not know something.
Program decode(const Module& module, std::string_view function, const Addresses& globals);

/// ld, st, atom and red: sets handler, space and count, and writes down what the operands are. False: not
/// known.
bool decode_access(const std::vector<std::string_view>& parts, bool wide_register, Instruction& i,
                   std::string& operands);

/// An operand that is a register, as decoding leaves it: its number, and whether it is written.
struct RegisterUse {
  std::size_t operand;  ///< in Program::operands
  std::size_t instruction;
  std::uint32_t number;
  bool written;
};

/// Gives registers their places, one to several whose values do not live at the same time, so that those of a
/// warp fit into a cache. Sets register_bytes.
void place_registers(Program& program, const std::vector<Width>& widths,
                     const std::vector<RegisterUse>& uses);

}  // namespace cottention::ptx
