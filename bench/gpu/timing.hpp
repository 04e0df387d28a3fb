// How a call is timed.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <vector>

#include "machine.hpp"

namespace bench {

/// How long to measure.
struct Pace {
  double warm_up = 2e4;         // microseconds of calls before the first sample
  double sample = 2e3;          // at least, of one sample; many calls where calls are short
  double samples = 2e5;         // of all samples together, about
  int fewest = 15, most = 200;  // samples
};

/// Microseconds of one call.
struct Timing {
  double median = 0, fastest = 0, slowest = 0;  // replayed from a graph: the device's time alone
  double launched = 0;         // median, launched one by one: the host's time where that is longer
  int samples = 0, calls = 0;  // calls in a sample
};

inline double median_of(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// One sample: microseconds that `enqueue` takes on the stream.
template <class Enqueue>
double sample(Stopwatch& watch, Enqueue enqueue) {
  watch.start();
  enqueue();
  watch.stop();
  return watch.microseconds();
}

/// As many samples as the pace asks for.
template <class Enqueue>
std::vector<double> samples_of(const Pace& pace, Stopwatch& watch, Enqueue enqueue) {
  std::vector<double> samples;
  double total = 0;
  while (static_cast<int>(samples.size()) < pace.fewest ||
         (static_cast<int>(samples.size()) < pace.most && total < pace.samples)) {
    samples.push_back(sample(watch, enqueue));
    total += samples.back();
  }
  return samples;
}

/// Times `call(i, stream)`, which makes a call on the i-th of `sets` sets of buffers. Calls take turns
/// through them, so that none finds its data in a cache.
inline Timing time_calls(const Pace& pace, int sets, const std::function<void(int, cudaStream_t)>& call) {
  require_success(cudaDeviceSynchronize(), "cudaDeviceSynchronize");  // the buffers are filled
  cudaStream_t stream = nullptr;
  require_success(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  Stopwatch watch(stream);
  const auto round = [&](cudaStream_t on) {
    for (int i = 0; i < sets; ++i) call(i, on);
  };
  // The first round finds the kernels' code. What it takes at last tells how many make up a sample.
  double once = sample(watch, [&] { round(stream); });
  for (double spent = 0; spent < pace.warm_up; spent += once) once = sample(watch, [&] { round(stream); });
  const int rounds = std::max(1, static_cast<int>(pace.sample / once) + 1);
  const auto many = [&](cudaStream_t on) {
    for (int r = 0; r < rounds; ++r) round(on);
  };

  Timing timing;
  timing.calls = rounds * sets;
  Replay replay(many);
  replay.launch(stream);  // uploads it
  std::vector<double> samples = samples_of(pace, watch, [&] { replay.launch(stream); });
  timing.samples = static_cast<int>(samples.size());
  timing.median = median_of(samples) / timing.calls;
  timing.fastest = *std::min_element(samples.begin(), samples.end()) / timing.calls;
  timing.slowest = *std::max_element(samples.begin(), samples.end()) / timing.calls;
  Pace shorter = pace;
  shorter.samples /= 4;
  timing.launched = median_of(samples_of(shorter, watch, [&] { many(stream); })) / timing.calls;
  require_success(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  require_success(cudaStreamDestroy(stream), "cudaStreamDestroy");
  return timing;
}

}  // namespace bench
