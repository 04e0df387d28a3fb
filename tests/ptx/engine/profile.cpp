#include "profile.hpp"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>

namespace cottention::ptx {
namespace {

std::string opcode_of(const std::string& statement) {
  std::istringstream words(statement);
  std::string word;
  words >> word;
  if (word.starts_with('@')) words >> word;
  return word.substr(0, word.find(';'));
}

std::vector<KernelProfile::Line> lines_of(const Program& program) {
  const std::vector<std::string>& sources = program.module->source_lines();
  std::vector<KernelProfile::Line> lines;
  for (const Instruction& i : program.code)
    lines.push_back({.opcode = opcode_of(program.module->line(i.line)),
                     .source = sources.at(static_cast<std::size_t>(i.line)),
                     .line = i.line});
  return lines;
}

struct Profiles {
  std::map<std::string, KernelProfile> kernels;
  ~Profiles() {
    const char* const path = std::getenv("COTTENTION_PTX_PROFILE");
    if (path == nullptr) return;
    std::ofstream file(path);
    for (const auto& [name, kernel] : kernels)
      for (const KernelProfile::Line& i : kernel.lines)
        if (i.times != 0)
          file << name << '\t' << kernel.blocks << '\t' << i.opcode << '\t' << i.source << '\t' << i.times
               << '\n';
  }
};

}  // namespace

std::uint64_t KernelProfile::times(const std::string& opcode) const {
  std::uint64_t sum = 0;
  for (const Line& line : lines) sum += line.opcode.starts_with(opcode) ? line.times : 0;
  return sum;
}

std::map<std::string, KernelProfile>& profile() {
  static Profiles profiles;
  return profiles.kernels;
}

void add_to_profile(const Program& program, std::uint64_t blocks, const Issued& issued) {
  KernelProfile& kernel = profile()[readable(program.name)];
  if (kernel.lines.size() != program.code.size())  // another of that name
    kernel = {0, program.name, program.module, lines_of(program)};
  kernel.blocks += blocks;
  for (std::size_t i = 0; i < kernel.lines.size(); ++i) {
    KernelProfile::Line& line = kernel.lines[i];
    line.group_times.resize(std::max(line.group_times.size(), issued.size()));
    for (std::size_t group = 0; group < issued.size(); ++group) {
      line.times += issued[group][i];
      line.group_times[group] += issued[group][i];
    }
  }
}

}  // namespace cottention::ptx
