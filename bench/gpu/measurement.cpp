#include "measurement.hpp"

#include <algorithm>
#include <exception>
#include <stdexcept>
#include <utility>

#include "buffer.hpp"

namespace bench {

/// A row's subject, warm, with the graph that is replayed.
struct Measurement::Prepared {
  Prepared(Subject what, const Pace& pace) : subject(std::move(what)), free_before(free_memory()) {
    require_success(cudaDeviceSynchronize(), "cudaDeviceSynchronize");  // the buffers are filled
    require_success(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    watch.emplace(stream);
    // The first round finds the kernels' code; the time of the second tells how many make up a sample.
    double once = seconds_of([&] { round(stream); });
    if (!pace.once) once = seconds_of([&] { round(stream); });
    rounds = pace.once ? 1 : std::max(1, static_cast<int>(pace.sample / once) + 1);
    graph.emplace([&](cudaStream_t on) { many(on); });
    if (!pace.once) graph->launch(stream);  // uploads it
  }
  Prepared(const Prepared&) = delete;
  Prepared& operator=(const Prepared&) = delete;
  ~Prepared() {
    (void)cudaStreamSynchronize(stream);
    (void)cudaStreamDestroy(stream);
  }

  int calls() const { return rounds * subject.sets; }
  /// Calls take turns through the sets of buffers, so that none finds its data in a cache.
  void round(cudaStream_t on) const {
    for (int i = 0; i < subject.sets; ++i) subject.call(i, on);
  }
  void many(cudaStream_t on) const {
    for (int r = 0; r < rounds; ++r) round(on);
  }
  /// That `enqueue` takes on the stream.
  template <class Enqueue>
  double seconds_of(Enqueue enqueue) {
    watch->start();
    enqueue();
    watch->stop();
    return 1e-6 * watch->microseconds();
  }

  Subject subject;
  std::int64_t free_before;
  cudaStream_t stream = nullptr;
  std::optional<Stopwatch> watch;
  std::optional<Replay> graph;
  int rounds = 1;
};

/// Hands the repetitions of a benchmark to the measurement.
class Measurement::Reporter : public benchmark::BenchmarkReporter {
 public:
  explicit Reporter(Measurement& measurement) : measurement_(measurement) {}
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>& runs) override {
    std::vector<Run> repetitions;
    std::copy_if(runs.begin(), runs.end(), std::back_inserter(repetitions),
                 [](const Run& run) { return run.run_type == Run::RT_Iteration; });
    if (!repetitions.empty()) measurement_.take(repetitions);
  }

 private:
  Measurement& measurement_;
};

Measurement::Measurement(const Conditions& conditions, double limit_seconds)
    : conditions_(conditions), limit_(limit_seconds) {
  benchmark::ClearRegisteredBenchmarks();
}
Measurement::~Measurement() { benchmark::ClearRegisteredBenchmarks(); }

void Measurement::add(const Row& row) {
  const Pace& pace = conditions_.pace;
  for (const Launch launch : {Launch::graph, Launch::singly}) {
    const std::string name = row.name + "/" + row.variant + (launch == Launch::singly ? "/singly" : "");
    benchmark::internal::Benchmark* const added = benchmark::RegisterBenchmark(
        name.c_str(), [this, &row, launch](benchmark::State& state) { measure(state, row, launch); });
    added->UseManualTime()->Unit(benchmark::kMicrosecond);
    if (pace.once) {
      added->Iterations(1);
      continue;
    }
    // Calls launched one by one are measured a quarter as long.
    const double share = launch == Launch::graph ? 1 : 0.25;
    added->Repetitions(pace.repetitions)->MinTime(share * pace.repetition);
    if (launch == Launch::graph && pace.warm_up > 0) added->MinWarmUpTime(pace.warm_up);
  }
}

void Measurement::run(const std::function<void(const Measured&)>& done) {
  done_ = done;
  Reporter reporter(*this);
  benchmark::RunSpecifiedBenchmarks(&reporter, ".");
}

void Measurement::prepare(const Row& row) {
  measured_.emplace(Measured{&row, {}});
  const double elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
  if (elapsed > limit_) throw std::runtime_error("not begun: out of time");
  Subject subject = row.make(conditions_);
  measured_->result.memory = subject.memory;
  measured_->result.sets = subject.sets;
  prepared_ = std::make_unique<Prepared>(std::move(subject), conditions_.pace);
}

/// One repetition, or one of the runs by which Google Benchmark finds out how many iterations make one.
void Measurement::measure(benchmark::State& state, const Row& row, Launch launch) {
  try {
    if (!measured_) prepare(row);
    if (Prepared* const p = prepared_.get()) {
      while (state.KeepRunningBatch(p->calls())) {
        state.SetIterationTime(p->seconds_of([&] {
          if (launch == Launch::graph)
            p->graph->launch(p->stream);
          else
            p->many(p->stream);
        }));
      }
      return;
    }
  } catch (const OutOfMemory& error) {
    measured_->skipped = error.what();
  } catch (const std::exception& error) {
    measured_->failed = error.what();
  }
  prepared_.reset();
  state.SkipWithError("not measured");  // why is in `measured_`
}

void Measurement::take(const std::vector<benchmark::BenchmarkReporter::Run>& runs) {
  const bool singly = runs.front().benchmark_name().find("/singly") != std::string::npos;
  std::vector<double> times;
  for (const auto& run : runs) times.push_back(run.GetAdjustedRealTime());
  std::sort(times.begin(), times.end());
  const double median = times[times.size() / 2];
  Timing& timing = measured_->result.timing;
  if (singly) {
    timing.launched = median;
    finish();
    return;
  }
  timing.median = median;
  timing.fastest = times.front();
  timing.slowest = times.back();
  timing.samples = static_cast<int>(times.size());
  timing.calls = static_cast<int>(runs.front().iterations);
}

/// One more call must write all of its output.
void Measurement::finish() {
  Measured& m = *measured_;
  try {
    if (prepared_) {
      m.result.beside_buffers =
          static_cast<double>(std::max<std::int64_t>(0, prepared_->free_before - free_memory()));
      m.result.complete = prepared_->subject.complete();
    }
  } catch (const std::exception& error) {
    m.failed = error.what();
  }
  prepared_.reset();
  const Measured finished = std::move(*measured_);
  measured_.reset();
  done_(finished);
}

double copy_bandwidth(const Conditions& conditions) {
  const std::int64_t bytes = conditions.emulated ? 1 << 16 : std::int64_t{1} << 30;
  Row copies{"copies", default_variant, {}, [&](const Conditions&) {
               struct Copy {
                 Buffer<float> from, to;
               };
               const auto copy = std::make_shared<Copy>(
                   Copy{random_buffer<float>(bytes / 4, 99), Buffer<float>(bytes / 4)});
               Subject subject;
               subject.call = [copy](int, cudaStream_t stream) {
                 require_success(cudaMemcpyAsync(copy->to.data(), copy->from.data(), copy->from.bytes(),
                                                 cudaMemcpyDeviceToDevice, stream),
                                 "cudaMemcpyAsync");
               };
               subject.complete = [copy] { return all_finite(copy->to); };
               return subject;
             }};
  Measurement measurement(conditions, 1e9);
  measurement.add(copies);
  Measured measured{&copies, {}};
  measurement.run([&](const Measured& m) { measured = m; });
  if (!measured.failed.empty() || !measured.skipped.empty())
    throw std::runtime_error("copies: " + measured.failed + measured.skipped);
  const Timing& timing = measured.result.timing;
  return 2.0 * static_cast<double>(bytes) / (1e-6 * std::min(timing.median, timing.launched));
}

}  // namespace bench
