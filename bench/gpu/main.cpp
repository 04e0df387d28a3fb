// cottention_bench_gpu: times the CUDA calls on the current device, as fractions of what its memory allows.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <optional>
#include <regex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "measurement.hpp"
#include "report.hpp"
#include "row.hpp"

namespace {

using namespace bench;

constexpr const char* usage = R"(usage: cottention_bench_gpu [OPTION...]

  --preset=NAME  standard, the default; sweep, over length, head dimension and batch x heads; authors, the sizes that
                 the authors of the paper time; or all, standard and sweep
  --rows=REGEX   only rows whose name, call/element/shape/variant, contains a match; also --filter=REGEX
  --variants     tilings and splits beside the library's choice too
  --seconds=S    of measuring, for each row; default 0.25, and a single replay in the emulator
  --limit=S      seconds after which no row is begun
  --json=FILE    write results to FILE, after every row
  --list         name the rows and stop
  --machine      describe the device as JSON and stop
)";

struct Options {
  std::string rows = "", json = "";
  std::optional<double> seconds = {};
  double limit = 1e9;
  Preset preset = Preset::standard;
  bool variants = false, list = false, machine = false;
};

bool parse(int argc, char** argv, Options& options) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    const auto value_of = [&](std::string_view name) {
      return argument.substr(0, name.size()) == name ? argv[i] + name.size() : nullptr;
    };
    if (const char* rows = value_of("--rows="))
      options.rows = rows;
    else if (const char* filter = value_of("--filter="))
      options.rows = filter;
    else if (const char* name = value_of("--preset=")) {
      const auto preset = parse_preset(name);
      if (!preset) return false;
      options.preset = *preset;
    } else if (const char* json = value_of("--json="))
      options.json = json;
    else if (const char* seconds = value_of("--seconds="))
      options.seconds = std::atof(seconds);
    else if (const char* limit = value_of("--limit="))
      options.limit = std::atof(limit);
    else if (argument == "--variants")
      options.variants = true;
    else if (argument == "--list")
      options.list = true;
    else if (argument == "--machine")
      options.machine = true;
    else
      return false;
  }
  return options.seconds.value_or(1) > 0;
}

std::vector<Row> selected_rows(const Options& options) {
  const std::regex wanted(options.rows);
  Rows rows(options.preset);
  for (const auto add : {
#ifndef BENCH_STANDARD_ALONE  // a quick build for the emulator: bf16 and the preset standard
           add_fp16, add_fp32, add_fp64, add_wide_fp32, add_wide_bf16,
#endif
           add_bf16, add_forward_tilings, add_step})
    add(rows);
  std::vector<Row> selected = std::move(rows).take();
  std::erase_if(selected, [&](const Row& row) {
    return (!options.variants && row.variant != default_variant) ||
           !std::regex_search(row.name + "/" + row.variant, wanted);
  });
  return selected;
}

Conditions conditions_for(const Options& options, const Machine& machine) {
  Conditions conditions;
  conditions.cache_bytes = machine.cache_bytes;
  conditions.memory_bytes = machine.memory_bytes;
  conditions.emulated = machine.emulated;
  // A row warms up, is replayed, and then launched singly for a quarter as long.
  Pace& pace = conditions.pace;
  const double seconds = options.seconds.value_or(0.25);
  pace.warm_up = seconds / 8;
  pace.repetition = seconds / 2 / pace.repetitions;
  pace.once = machine.emulated && !options.seconds;
  return conditions;
}

/// Measures and prints every row, after one that fails too, and writes what there is after each.
std::vector<Measured> measure(const std::vector<Row>& rows, const Conditions& conditions,
                              const Options& options, const Machine& machine, const Copies& copies) {
  Measurement measurement(conditions, options.limit);
  for (const Row& row : rows) measurement.add(row);
  std::vector<Measured> all;
  measurement.run([&](const Measured& m) {
    all.push_back(m);
    print(m, all.size(), rows.size(), copies.before);
    if (!options.json.empty() && !write_json(options.json, machine, all, copies, false))
      throw std::runtime_error("results cannot be written");
  });
  return all;
}

int run(const Options& options) {
  const std::vector<Row> rows = selected_rows(options);
  if (options.list) {
    for (const Row& row : rows) std::printf("%s/%s\n", row.name.c_str(), row.variant.c_str());
    return 0;
  }
  const Machine machine = this_machine();
  if (options.machine) {
    std::printf("%s\n", machine_json(machine).c_str());
    return 0;
  }
  if (rows.empty()) {
    std::fprintf(stderr, "no row matches %s\n", options.rows.c_str());
    return 1;
  }

  const Conditions conditions = conditions_for(options, machine);
  Copies copies{.before = copy_bandwidth(conditions)};
  std::printf("%s: copies move %.3f TB/s\n\n", machine.name.c_str(), 1e-12 * copies.before);
  print_header();
  const std::vector<Measured> all = measure(rows, conditions, options, machine, copies);
  bool sound = true;
  for (const Measured& m : all)
    sound = sound && m.failed.empty() && (m.result.complete || !m.skipped.empty());
  try {  // after some failures the device can do nothing more
    copies.after = copy_bandwidth(conditions);
    std::printf("\ncopies at the end: %.3f TB/s\n", 1e-12 * copies.after);
  } catch (const std::exception& error) {
    std::printf("\ncopies at the end: %s\n", error.what());
  }
  if (!options.json.empty() && !write_json(options.json, machine, all, copies, true)) return 1;
  return sound ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!parse(argc, argv, options)) {
    std::fputs(usage, stderr);
    return 2;
  }
  try {
    return run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cottention_bench_gpu: %s\n", error.what());
    return 1;
  }
}
