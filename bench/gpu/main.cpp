// cottention_bench_gpu: times the CUDA calls on the current device, as fractions of what its memory allows.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <regex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "buffer.hpp"
#include "row.hpp"

namespace {

using namespace bench;

constexpr const char* usage = R"(usage: cottention_bench_gpu [OPTION...]

  --rows=REGEX   only rows whose name, call/element/shape/variant, contains a match
  --variants     tilings and splits beside the library's choice too
  --seconds=S    of measuring, for each row; default 0.25
  --limit=S      seconds after which no row is begun
  --json=FILE    write results to FILE
  --list         name the rows and stop
  --machine      describe the device as JSON and stop
)";

struct Options {
  std::string rows = "", json = "";
  double seconds = 0.25, limit = 1e9;
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
    else if (const char* json = value_of("--json="))
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
  return options.seconds > 0;
}

std::string quoted(const std::string& text) {
  std::string json = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') json += '\\';
    json += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
  }
  return json + '"';
}

std::string machine_json(const Machine& m) {
  char text[400];
  std::snprintf(
      text, sizeof text,
      ", \"compute_capability\": %d, \"multiprocessors\": %d, \"memory_bytes\": %lld, \"cache_bytes\": %lld, "
      "\"clock_megahertz\": %d, \"memory_megahertz\": %d, \"cuda_of_driver\": %d, \"cuda_runtime\": %d}",
      m.compute_capability, m.multiprocessors, static_cast<long long>(m.memory_bytes),
      static_cast<long long>(m.cache_bytes), m.clock_megahertz, m.memory_megahertz, m.driver, m.runtime);
  return "{\"name\": " + quoted(m.name) + text;
}

/// Bytes a second of copies within device memory, each byte counted where it is read and where it is written.
double copy_bandwidth(const Conditions& conditions) {
  const std::int64_t bytes = conditions.emulated ? 1 << 16 : std::int64_t{1} << 30;
  const Buffer<float> from = random_buffer<float>(bytes / 4, 99), to(bytes / 4);
  const Timing timing = time_calls(conditions.pace, 1, [&](int, cudaStream_t stream) {
    require_success(cudaMemcpyAsync(to.data(), from.data(), from.bytes(), cudaMemcpyDeviceToDevice, stream),
                    "cudaMemcpyAsync");
  });
  return 2.0 * static_cast<double>(bytes) / (1e-6 * std::min(timing.median, timing.launched));
}

struct Measured {
  const Row* row;
  Result result;
  std::string failure;
};

double floor_of(const Row& row, double bandwidth) { return 1e6 * row.bytes / bandwidth; }

void print(const Measured& m, double bandwidth) {
  const std::string name = m.row->name + "/" + m.row->variant;
  if (!m.failure.empty()) {
    std::printf("%-72s failed: %s\n", name.c_str(), m.failure.c_str());
  } else {
    const Timing& t = m.result.timing;
    const double floor = floor_of(*m.row, bandwidth);
    std::printf("%-72s %9.2f %9.2f %6.1f%% %9.2f%s\n", name.c_str(), t.median, floor, 100 * floor / t.median,
                t.launched, m.result.complete ? "" : "  INCOMPLETE OUTPUT");
  }
  std::fflush(stdout);
}

std::string json_of(const Measured& m, double bandwidth) {
  const std::string names = "{\"row\": " + quoted(m.row->name) + ", \"variant\": " + quoted(m.row->variant);
  if (!m.failure.empty()) return names + ", \"failed\": " + quoted(m.failure) + "}";
  const Timing& t = m.result.timing;
  const double floor = floor_of(*m.row, bandwidth);
  char text[500];
  std::snprintf(text, sizeof text,
                ", \"bytes\": %.0f, \"microseconds\": %.4f, \"fastest\": %.4f, \"slowest\": %.4f, "
                "\"launched_singly\": %.4f, "
                "\"floor\": %.4f, \"fraction_of_floor\": %.4f, \"samples\": %d, \"calls_in_a_sample\": %d, "
                "\"buffer_sets\": %d, "
                "\"output_complete\": %s}",
                m.row->bytes, t.median, t.fastest, t.slowest, t.launched, floor, floor / t.median, t.samples,
                t.calls, m.result.sets, m.result.complete ? "true" : "false");
  return names + text;
}

bool write_json(const std::string& path, const Machine& machine, const std::vector<Measured>& measured,
                double before, double after) {
  std::FILE* const file = std::fopen(path.c_str(), "w");
  if (file == nullptr) {
    std::perror(path.c_str());
    return false;
  }
  std::fprintf(
      file,
      "{\"machine\": %s,\n \"copy_bytes_per_second\": {\"before\": %.4e, \"after\": %.4e},\n \"rows\": [",
      machine_json(machine).c_str(), before, after);
  const char* separator = "\n  ";
  for (const Measured& m : measured) {
    std::fprintf(file, "%s%s", separator, json_of(m, std::max(before, after)).c_str());
    separator = ",\n  ";
  }
  std::fprintf(file, "\n ]}\n");
  return std::fclose(file) == 0;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::vector<Row> selected_rows(const Options& options) {
  const std::regex wanted(options.rows);
  std::vector<Row> rows;
  for (const auto add :
       {add_forward_bf16, add_forward_fp16, add_forward_fp32, add_forward_variants, add_backward_bf16,
        add_backward_fp16, add_backward_fp32, add_backward_variants, add_step})
    add(rows);
  std::erase_if(rows, [&](const Row& row) {
    return (!options.variants && row.variant != default_variant) ||
           !std::regex_search(row.name + "/" + row.variant, wanted);
  });
  return rows;
}

Conditions conditions_for(const Options& options, const Machine& machine) {
  Conditions conditions;
  conditions.cache_bytes = machine.cache_bytes;
  conditions.memory_bytes = machine.memory_bytes;
  conditions.emulated = machine.emulated;
  // A row warms up, is replayed, and then launched singly for a quarter as long.
  conditions.pace = {.warm_up = 1e6 * options.seconds / 8, .samples = 1e6 * options.seconds / 2};
  if (machine.emulated) conditions.pace = {.warm_up = 0, .sample = 0, .samples = 0, .fewest = 2, .most = 2};
  return conditions;
}

/// Measures and prints every row; after one that fails, too.
std::vector<Measured> measure(const std::vector<Row>& rows, const Conditions& conditions, double limit,
                              double bandwidth) {
  const auto started = std::chrono::steady_clock::now();
  std::vector<Measured> measured;
  for (const Row& row : rows) {
    Measured m{&row, {}, ""};
    try {
      if (seconds_since(started) > limit) throw std::runtime_error("not begun: out of time");
      m.result = row.measure(conditions);
    } catch (const std::exception& error) {
      m.failure = error.what();
    }
    print(m, bandwidth);
    measured.push_back(std::move(m));
  }
  return measured;
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
  const double before = copy_bandwidth(conditions);
  std::printf("%s: copies move %.3f TB/s\n\n%-72s %9s %9s %7s %9s\n", machine.name.c_str(), 1e-12 * before,
              "microseconds of a call", "median", "floor", "", "singly");
  const std::vector<Measured> measured = measure(rows, conditions, options.limit, before);
  bool sound = true;
  for (const Measured& m : measured) sound = sound && m.failure.empty() && m.result.complete;
  double after = 0;
  try {  // after some failures the device can do nothing more
    after = copy_bandwidth(conditions);
    std::printf("\ncopies at the end: %.3f TB/s\n", 1e-12 * after);
  } catch (const std::exception& error) {
    std::printf("\ncopies at the end: %s\n", error.what());
  }
  if (!options.json.empty() && !write_json(options.json, machine, measured, before, after)) return 1;
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
