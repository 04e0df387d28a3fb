// How often warps execute each line of PTX of the kernels of budget.hpp, for tests/checks/budget.py.
//
// usage: test_ptx_budget FOLDER
//
// Writes FOLDER/module-N.ptx and FOLDER/counts.json.
#include <algorithm>
#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "kernel/budget.hpp"
#include "ptx/engine/profile.hpp"

using cottention::ptx::KernelProfile;
using cottention::ptx::profile;

namespace {

KernelProfile profile_of(const budget::Row& row, std::int64_t tokens) {
  row.run(tokens, [] { profile().clear(); });
  budget::require(profile().size() == 1, "not one kernel was counted");
  return profile().begin()->second;
}

/// Of every line that was executed: its number, and the warps that did in each warpgroup.
void write_lines(std::ofstream& to, const KernelProfile& shorter, const KernelProfile& longer) {
  const char* between = "";
  for (std::size_t i = 0; i < longer.lines.size(); ++i) {
    to << between << "\n   [" << longer.lines[i].line;
    for (std::size_t group = 0; group < longer.lines[i].group_times.size(); ++group)
      to << ", "
         << static_cast<std::int64_t>(longer.lines[i].group_times[group] -
                                      shorter.lines[i].group_times[group]);
    to << "]";
    between = ",";
  }
}

}  // namespace

int main(int count, char** arguments) {
  budget::require(count == 2, "usage: test_ptx_budget FOLDER");
  const std::string folder = arguments[1];
  std::vector<const cottention::ptx::Module*> modules;
  std::ofstream to(folder + "/counts.json");
  to << "{\"tokens\": " << budget::longer - budget::shorter << ", \"rows\": [";
  const char* between = "";
  for (const budget::Row& row : budget::rows) {
    const KernelProfile shorter = profile_of(row, budget::shorter), longer = profile_of(row, budget::longer);
    budget::require(shorter.entry == longer.entry, "another kernel at another length");
    const auto found = std::find(modules.begin(), modules.end(), longer.module);
    const std::string module = "module-" + std::to_string(found - modules.begin()) + ".ptx";
    if (found == modules.end()) {
      modules.push_back(longer.module);
      std::ofstream(folder + "/" + module) << longer.module->text();
    }
    to << between << "\n {\"name\": \"" << row.name << "\", \"chunk\": " << row.chunk
       << ", \"warps\": " << row.warps << ", \"bytes\": " << row.bytes << ", \"entry\": \"" << longer.entry
       << "\", \"module\": \"" << module << "\", \"lines\": [";
    write_lines(to, shorter, longer);
    to << "]}";
    between = ",";
  }
  to << "\n]}\n";
  return to.flush() ? 0 : 1;
}
