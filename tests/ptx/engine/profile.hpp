// How often warps execute the instructions of each kernel. nvcc's -lineinfo adds where they come from.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "machine.hpp"

namespace cottention::ptx {

struct KernelProfile {
  struct Line {
    std::string opcode, source;                ///< file:line, if known
    int line = 0;                              ///< of the module's text
    std::uint64_t times = 0;                   ///< over all warps
    std::vector<std::uint64_t> group_times{};  ///< of each warpgroup
  };
  std::uint64_t blocks = 0;
  std::string entry;  ///< its name in the module
  const Module* module = nullptr;
  std::vector<Line> lines;

  /// Of the opcodes that begin so.
  std::uint64_t times(const std::string& opcode = "") const;
};

/// Of all launches so far, by the kernel's name as C++ writes it. With COTTENTION_PTX_PROFILE set, it is
/// written to the file that it names when the program ends: kernel, blocks, opcode, source and times,
/// separated by tabs.
std::map<std::string, KernelProfile>& profile();

/// Adds a launch of `blocks` blocks, in which the warps of warpgroup g executed each instruction issued[g][i]
/// times.
void add_to_profile(const Program& program, std::uint64_t blocks, const Issued& issued);

}  // namespace cottention::ptx
