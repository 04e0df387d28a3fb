#include "profile.hpp"

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
    lines.push_back({opcode_of(program.module->line(i.line)), sources.at(static_cast<std::size_t>(i.line))});
  return lines;
}

struct Profiles {
  std::map<std::string, KernelProfile> kernels;
  ~Profiles() {
    const char* const path = std::getenv("COTTENTION_PTX_PROFILE");
    if (path == nullptr) return;
    std::ofstream file(path);
    for (const auto& [name, kernel] : kernels)
      for (const auto& [opcode, source, times] : kernel.lines)
        if (times != 0)
          file << name << '\t' << kernel.blocks << '\t' << opcode << '\t' << source << '\t' << times << '\n';
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

void add_to_profile(const Program& program, std::uint64_t blocks, const std::vector<std::uint64_t>& issued) {
  KernelProfile& kernel = profile()[readable(program.name)];
  if (kernel.lines.size() != issued.size()) kernel = {0, lines_of(program)};  // another of that name
  kernel.blocks += blocks;
  for (std::size_t i = 0; i < issued.size(); ++i) kernel.lines[i].times += issued[i];
}

}  // namespace cottention::ptx
