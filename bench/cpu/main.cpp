// cottention_bench: Google Benchmark's flags, --threads=1,2 for the thread counts of the rows, and
// --preset=all|standard|sweep|authors for which rows there are.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support.hpp"

namespace bench {

std::vector<int>& thread_counts() {
  static std::vector<int> counts = {1, 2};
  return counts;
}

Preset& preset() {
  static Preset rows = Preset::all;
  return rows;
}

// sysfs through Google Benchmark; sysconf counts the caches of cores that a virtual machine does not have.
std::int64_t last_level_cache_bytes() {
  std::int64_t bytes = std::int64_t{8} << 20;  // where nothing is known
  for (const auto& cache : benchmark::CPUInfo::Get().caches)
    bytes = std::max<std::int64_t>(bytes, cache.size);
  return bytes;
}

}  // namespace bench

namespace {

/// Takes "1,2,8"; false where that is not what it is.
bool parse_threads(const char* text, std::vector<int>& counts) {
  counts.clear();
  for (;;) {
    char* end = nullptr;
    const long n = std::strtol(text, &end, 10);
    if (end == text || n < 1 || n > 1024) return false;
    counts.push_back(static_cast<int>(n));
    if (*end == '\0') return true;
    if (*end != ',') return false;
    text = end + 1;
  }
}

}  // namespace

int main(int argc, char** argv) {
  // Medians of several repetitions unless the command line says otherwise: of a flag given twice, the last
  // counts.
  static char repetitions[] = "--benchmark_repetitions=5";
  static char min_time[] = "--benchmark_min_time=0.1";
  static char aggregates[] = "--benchmark_display_aggregates_only=true";
  std::vector<char*> arguments = {argv[0], repetitions, min_time, aggregates};
  constexpr std::string_view threads_flag = "--threads=", preset_flag = "--preset=";
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument.substr(0, threads_flag.size()) == threads_flag) {
      if (parse_threads(argv[i] + threads_flag.size(), bench::thread_counts())) continue;
      std::fprintf(stderr, "%s: expected --threads=N[,N...] with each N from 1 to 1024\n", argv[i]);
      return 1;
    }
    if (argument.substr(0, preset_flag.size()) == preset_flag) {
      if (const auto rows = bench::parse_preset(argument.substr(preset_flag.size()))) {
        bench::preset() = *rows;
        continue;
      }
      std::fprintf(stderr, "%s: expected --preset=all, standard, sweep or authors\n", argv[i]);
      return 1;
    }
    arguments.push_back(argv[i]);
  }
  int count = static_cast<int>(arguments.size());
  arguments.push_back(nullptr);

  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 1;
  benchmark::AddCustomContext("compiler", BENCH_COMPILER);
  benchmark::AddCustomContext("compiler_flags", BENCH_FLAGS);
  benchmark::AddCustomContext("build_type", BENCH_BUILD_TYPE);
#ifdef _OPENMP
  benchmark::AddCustomContext("openmp", std::to_string(_OPENMP));
#else
  benchmark::AddCustomContext("openmp", "none: every row runs on one thread");
#endif
  bench::register_machine();
  bench::register_forward();
  bench::register_packed();
  bench::register_prefill();
  bench::register_backward();
  bench::register_step();
  bench::register_memory();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
