// How often warps execute each instruction: with COTTENTION_PTX_PROFILE set, every kernel's go to the file
// that it names when the program ends, a line for each opcode at each source line, separated by tabs:
//
//     kernel    blocks    opcode    file:line    times, over all warps
//
// Source lines are there where nvcc was given -lineinfo.
#pragma once

#include "machine.hpp"

namespace cottention::ptx {

/// Keeps what a launch of `blocks` blocks has added to the program's counts.
void add_to_profile(const Program& program, std::uint64_t blocks);

}  // namespace cottention::ptx
