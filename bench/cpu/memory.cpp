// memory/<call>/heads:<h>/tokens:<n>/threads:<t>: what a call needs beside its inputs and outputs, fp32,
// causal, d 64.
//
//   workspace_bytes     what workspace_bytes() answers
//   peak_growth_bytes   how far resident memory rises above that during one call. Inputs, outputs and the
//                       workspace are resident before it. The kernel's count is off by some tens of KiB per
//                       thread.
#include <cstdio>
#include <fstream>
#include <string>

#include "attention.hpp"

namespace bench {
namespace {

using MemoryProblem = cottention::Problem<float, cottention::HeadDim{64, 64}, cottention::Mask::causal,
                                          cottention::Scale::by_key>;

enum class Call { forward, backward };

/// A line of /proc/self/status or /proc/meminfo, in bytes; negative where there is none.
std::int64_t proc_bytes(const char* file, const std::string& key) {
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);)
    if (line.rfind(key + ":", 0) == 0) return std::strtoll(line.c_str() + key.size() + 1, nullptr, 10) * 1024;
  return -1;
}

/// Sets the peak of the resident memory back to its present value.
bool reset_peak() {
  std::ofstream file("/proc/self/clear_refs");
  file << "5" << std::flush;
  return file.good();
}

template <class Arguments>
cottention::CallStatus call(const Arguments& arguments, cottention::Workspace workspace,
                            const cottention::cpu::Execution& execution) {
  if constexpr (std::is_same_v<Arguments, cottention::ForwardArguments<float>>)
    return cottention::cpu::forward<MemoryProblem>(arguments, workspace, execution);
  else
    return cottention::cpu::backward<MemoryProblem>(arguments, workspace, execution);
}

template <class Arguments>
void measure(benchmark::State& state, const Arguments& arguments, const Arguments& warm_up, int threads) {
  const cottention::cpu::Execution execution{.threads = threads};
  {  // starts the threads and touches the code
    const Scratch scratch(cottention::cpu::workspace_bytes<MemoryProblem>(warm_up, execution));
    const cottention::CallStatus status = call(warm_up, scratch.workspace(), execution);
    if (!status.ok()) return state.SkipWithError(status.reason);
  }
  const std::size_t bytes = cottention::cpu::workspace_bytes<MemoryProblem>(arguments, execution);
  const Scratch scratch(bytes);
  if (!reset_peak())
    return state.SkipWithError("cannot reset the peak memory: /proc/self/clear_refs is not writable");
  const std::int64_t before = proc_bytes("/proc/self/status", "VmRSS");
  for (auto _ : state) {
    const cottention::CallStatus status = call(arguments, scratch.workspace(), execution);
    if (!status.ok()) return state.SkipWithError(status.reason);
  }
  const std::int64_t peak = proc_bytes("/proc/self/status", "VmHWM");
  if (before < 0 || peak < 0) return state.SkipWithError("/proc/self/status does not tell the peak memory");
  state.counters["workspace_bytes"] = static_cast<double>(bytes);
  state.counters["peak_growth_bytes"] = static_cast<double>(peak - before);
}

void memory(benchmark::State& state, Call which, std::int64_t heads, std::int64_t tokens, int threads) {
  const NamedShape shape{"memory", 1, heads, tokens, 64};
  const NamedShape small{"small", 1, heads, 128, 64};
  const std::int64_t tensors = which == Call::forward ? 4 : 8;
  const std::int64_t needed = tensors * heads * tokens * 64 * 4;
  if (const std::int64_t available = proc_bytes("/proc/meminfo", "MemAvailable");
      available < needed + needed / 4) {
    const std::string reason =
        "needs " + std::to_string(needed >> 20) + " MiB, and there are " + std::to_string(available >> 20);
    return state.SkipWithError(reason.c_str());
  }
  const Attention<float> data(shape);
  const Attention<float> warm_up(small);
  if (which == Call::forward)
    return measure(state, data.forward_arguments(), warm_up.forward_arguments(), threads);
  const Gradients<float> gradients(shape);
  const Gradients<float> small_gradients(small);
  measure(state, gradients.backward_arguments(data), small_gradients.backward_arguments(warm_up), threads);
}

}  // namespace

void register_memory() {
  if (!wanted(Preset::standard)) return;
  for (const int threads : thread_counts())
    for (const std::int64_t heads : {1, 16})
      for (const std::int64_t tokens : {1024, 4096, 16384, 131072}) {
        const std::string suffix =
            "/heads:" + std::to_string(heads) + "/tokens:" + std::to_string(tokens) + threads_name(threads);
        add_row("memory/forward" + suffix, [=](benchmark::State& s) {
          memory(s, Call::forward, heads, tokens, threads);
        })->Iterations(1);
        add_row("memory/backward" + suffix, [=](benchmark::State& s) {
          memory(s, Call::backward, heads, tokens, threads);
        })->Iterations(1);
      }
}

}  // namespace bench
