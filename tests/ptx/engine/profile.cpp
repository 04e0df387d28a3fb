#include "profile.hpp"

#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <utility>

namespace cottention::ptx {
namespace {

/// Of each line of a module's text, the source line that the last .loc before it names.
std::vector<std::string> source_lines(const Module& module) {
  std::map<int, std::string> files;
  std::istringstream text(module.text());
  std::string line;
  while (std::getline(text, line)) {
    std::istringstream words(line);
    std::string word, name;
    int number = 0;
    if (words >> word >> number >> name && word == ".file") {
      const std::size_t folder = name.rfind("/cottention/");
      name = name.substr(folder == std::string::npos ? 1 : folder + 12);
      files[number] = name.substr(0, name.find('"'));
    }
  }
  std::vector<std::string> sources{""};
  text = std::istringstream(module.text());
  std::string now = "?";
  while (std::getline(text, line)) {
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

class Profile {
 public:
  explicit Profile(const char* path) : path_(path) {}
  ~Profile() { write(); }
  void add(const Program& program, std::uint64_t blocks) { blocks_[&program] += blocks; }

 private:
  void write() const {
    std::ofstream file(path_);
    std::map<const Module*, std::vector<std::string>> sources;
    for (const auto& [program, blocks] : blocks_) {
      std::vector<std::string>& lines = sources[program->module];
      if (lines.empty()) lines = source_lines(*program->module);
      std::map<std::pair<std::string, std::string>, std::uint64_t> times;
      for (std::size_t n = 0; n < program->code.size(); ++n) {
        const int line = program->code[n].line;
        times[{opcode_of(program->module->line(line)), lines.at(static_cast<std::size_t>(line))}] +=
            program->issued[n];
      }
      for (const auto& [what, count] : times)
        if (count != 0)
          file << readable(program->name) << '\t' << blocks << '\t' << what.first << '\t' << what.second
               << '\t' << count << '\n';
    }
  }

  const char* path_;
  std::map<const Program*, std::uint64_t> blocks_;
};

}  // namespace

void add_to_profile(const Program& program, std::uint64_t blocks) {
  static const char* const path = std::getenv("COTTENTION_PTX_PROFILE");
  if (path == nullptr) return;
  static Profile profile(path);
  profile.add(program, blocks);
}

}  // namespace cottention::ptx
