#include "report.hpp"

#include <cstdio>

namespace bench {
namespace {

std::string quoted(const std::string& text) {
  std::string json = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') json += '\\';
    json += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
  }
  return json + '"';
}

/// ", "name": value" of one number.
std::string field(const char* name, double value, const char* format = "%.6g") {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return std::string(", \"") + name + "\": " + text;
}

/// Microseconds in which the bytes that must move would be copied.
double floor_of(const Row& row, double bytes_per_second) { return 1e6 * row.work.bytes / bytes_per_second; }

std::string json_of(const Memory& m) {
  return "{" + field("inputs", m.inputs, "%.0f").substr(2) + field("outputs", m.outputs, "%.0f") +
         field("states", m.states, "%.0f") + field("workspace", m.workspace, "%.0f") + "}";
}

std::string json_of(const Measured& m, double bytes_per_second) {
  const std::string names = "{\"row\": " + quoted(m.row->name) + ", \"variant\": " + quoted(m.row->variant);
  if (!m.failed.empty()) return names + ", \"failed\": " + quoted(m.failed) + "}";
  if (!m.skipped.empty()) return names + ", \"skipped\": " + quoted(m.skipped) + "}";
  const Timing& t = m.result.timing;
  const Work& work = m.row->work;
  const double floor = floor_of(*m.row, bytes_per_second), per_second = 1e6 / t.median;
  return names + field("bytes", work.bytes, "%.0f") + field("microseconds", t.median) +
         field("fastest", t.fastest) + field("slowest", t.slowest) + field("launched_singly", t.launched) +
         field("tokens_per_second", work.tokens * per_second) +
         field("bytes_per_second", work.bytes * per_second) +
         field("flop_per_second", work.chunk_free_flop * per_second) + field("floor", floor) +
         field("fraction_of_floor", floor / t.median) + field("samples", t.samples) +
         field("calls_in_a_sample", t.calls) + field("buffer_sets", m.result.sets) +
         ", \"memory\": " + json_of(m.result.memory) + field("peak_bytes", m.result.memory.taken(), "%.0f") +
         field("beside_buffers", m.result.beside_buffers, "%.0f") +
         ", \"output_complete\": " + (m.result.complete ? "true}" : "false}");
}

}  // namespace

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

void print_header() {
  std::printf("%-76s %10s %10s %7s %10s %9s %7s %8s %9s\n", "microseconds of a call", "median", "floor", "",
              "singly", "tokens/s", "TB/s", "TFLOP/s", "MiB taken");
}

void print(const Measured& m, std::size_t number, std::size_t count, double bytes_per_second) {
  char progress[32];
  std::snprintf(progress, sizeof progress, "[%zu/%zu] ", number, count);
  const std::string name = progress + m.row->name + "/" + m.row->variant;
  if (!m.failed.empty() || !m.skipped.empty()) {
    std::printf("%-76s %s: %s\n", name.c_str(), m.failed.empty() ? "skipped" : "failed",
                (m.failed.empty() ? m.skipped : m.failed).c_str());
  } else {
    const Timing& t = m.result.timing;
    const Work& work = m.row->work;
    const double floor = floor_of(*m.row, bytes_per_second);
    std::printf("%-76s %10.2f %10.2f %6.1f%% %10.2f %9.3g %7.3f %8.2f %9.1f%s\n", name.c_str(), t.median,
                floor, 100 * floor / t.median, t.launched, 1e6 * work.tokens / t.median,
                1e-6 * work.bytes / t.median, 1e-6 * work.chunk_free_flop / t.median,
                m.result.memory.taken() / (1 << 20), m.result.complete ? "" : "  INCOMPLETE OUTPUT");
  }
  std::fflush(stdout);
}

bool write_json(const std::string& path, const Machine& machine, const std::vector<Measured>& measured,
                const Copies& copies, bool complete) {
  const std::string fresh = path + ".new";
  std::FILE* const file = std::fopen(fresh.c_str(), "w");
  if (file == nullptr) {
    std::perror(fresh.c_str());
    return false;
  }
  std::fprintf(file,
               "{\"machine\": %s,\n \"copy_bytes_per_second\": {\"before\": %.4e, \"after\": %.4e},\n "
               "\"complete\": %s,\n \"rows\": [",
               machine_json(machine).c_str(), copies.before, copies.after, complete ? "true" : "false");
  const char* separator = "\n  ";
  for (const Measured& m : measured) {
    std::fprintf(file, "%s%s", separator, json_of(m, copies.best()).c_str());
    separator = ",\n  ";
  }
  std::fprintf(file, "\n ]}\n");
  if (std::fclose(file) == 0 && std::rename(fresh.c_str(), path.c_str()) == 0) return true;
  std::perror(path.c_str());
  return false;
}

}  // namespace bench
