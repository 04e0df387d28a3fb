// Rows as benchmarks of Google Benchmark, whose manual times are those of CUDA events.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include "report.hpp"
#include "row.hpp"

namespace bench {

/// Subjects of rows, measured in turn: each is registered twice, as `NAME` replayed from a graph and as
/// `NAME/singly` launched call by call.
class Measurement {
 public:
  Measurement(const Conditions& conditions, double limit_seconds);
  ~Measurement();

  /// `row` must outlive the run.
  void add(const Row& row);
  /// Runs what was added, in that order. `done` is called after each row.
  void run(const std::function<void(const Measured&)>& done);

 private:
  struct Prepared;
  class Reporter;
  enum class Launch { graph, singly };

  void prepare(const Row& row);
  void measure(benchmark::State& state, const Row& row, Launch launch);
  /// Median, fastest and slowest of the repetitions.
  void take(const std::vector<benchmark::BenchmarkReporter::Run>& runs);
  void finish();

  Conditions conditions_;
  double limit_;
  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  std::optional<Measured> measured_;    // the row that is being measured
  std::unique_ptr<Prepared> prepared_;  // its buffers, unless it has failed
  std::function<void(const Measured&)> done_;
};

/// Bytes a second of copies within device memory, each byte counted where it is read and where it is written.
double copy_bandwidth(const Conditions& conditions);

}  // namespace bench
