#include "profile.hpp"

#include <cstdlib>
#include <fstream>
#include <sstream>

namespace cottention::ptx {
namespace {

/// Of each line of a module's text, the source line that the last .loc before it names.
std::vector<std::string> source_lines(const std::string& module) {
  std::map<int, std::string> files;
  std::string line, now;
  for (std::istringstream text(module); std::getline(text, line);) {
    std::istringstream words(line);
    std::string word, name;
    int number = 0;
    if (!(words >> word >> number >> name) || word != ".file") continue;
    const std::size_t folder = name.rfind("/cottention/");
    name = name.substr(folder == std::string::npos ? 1 : folder + 12);
    files[number] = name.substr(0, name.find('"'));
  }
  std::vector<std::string> sources{""};
  for (std::istringstream text(module); std::getline(text, line);) {
    std::istringstream words(line);
    std::string word;
    int file = 0, number = 0;
    if (words >> word >> file >> number && word == ".loc") now = files[file] + ":" + std::to_string(number);
    sources.push_back(now);
  }
  return sources;
}

std::string opcode_of(const std::string& statement) {
  std::istringstream words(statement);
  std::string word;
  words >> word;
  if (word.starts_with('@')) words >> word;
  return word.substr(0, word.find(';'));
}

std::vector<KernelProfile::Line> lines_of(const Program& program) {
  static std::map<const Module*, std::vector<std::string>> known;
  const auto [of_module, is_new] = known.try_emplace(program.module);
  std::vector<std::string>& sources = of_module->second;
  if (is_new) sources = source_lines(program.module->text());
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
