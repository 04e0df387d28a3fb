// Writes what a test program has done, as JSON, to the file that COTTENTION_REPORT names: at the start and
// the end of each case, since a program may be stopped or crash.
#if __has_include(<catch2/reporters/catch_reporter_event_listener.hpp>)
#include <catch2/catch_test_case_info.hpp>
#include <catch2/reporters/catch_reporter_event_listener.hpp>
#include <catch2/reporters/catch_reporter_registrars.hpp>
using Listener = Catch::EventListenerBase;
#else
#define CATCH_CONFIG_EXTERNAL_INTERFACES
#include <catch2/catch.hpp>
using Listener = Catch::TestEventListenerBase;
#endif

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

std::string quoted(const std::string& text) {
  std::string json = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') json += '\\';
    json += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
  }
  return json + '"';
}

class Report : public Listener {
 public:
  using Listener::Listener;

  void testRunStarting(const Catch::TestRunInfo& info) override {
    Listener::testRunStarting(info);
    run_started_ = Clock::now();
    write();
  }
  void testCaseStarting(const Catch::TestCaseInfo& info) override {
    Listener::testCaseStarting(info);
    name_ = info.name;
    case_started_ = Clock::now();
    write();
  }
  void testCaseEnded(const Catch::TestCaseStats& stats) override {
    const bool passed = stats.totals.assertions.failed == 0;
    cases_.push_back({std::exchange(name_, ""), seconds_since(case_started_), passed});
    totals_ += stats.totals;
    write();
    Listener::testCaseEnded(stats);
  }

 private:
  struct Done {
    std::string name;
    double seconds;
    bool passed;
  };

  static double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  void write() {
    const char* const path = std::getenv("COTTENTION_REPORT");
    std::FILE* const file = path == nullptr ? nullptr : std::fopen(path, "w");
    if (file == nullptr) return;
    std::fprintf(file,
                 "{\"cases_passed\": %zu, \"cases_failed\": %zu, \"assertions_passed\": %zu, "
                 "\"assertions_failed\": %zu, \"seconds\": %.3f, \"failed\": [",
                 static_cast<std::size_t>(totals_.testCases.passed),
                 static_cast<std::size_t>(totals_.testCases.failed),
                 static_cast<std::size_t>(totals_.assertions.passed),
                 static_cast<std::size_t>(totals_.assertions.failed), seconds_since(run_started_));
    const char* separator = "";
    for (const Done& done : cases_)
      if (!done.passed) std::fprintf(file, "%s%s", std::exchange(separator, ", "), quoted(done.name).c_str());
    std::fprintf(file, "], \"slowest\": [");
    std::stable_sort(cases_.begin(), cases_.end(),
                     [](const Done& a, const Done& b) { return a.seconds > b.seconds; });
    separator = "";
    for (std::size_t i = 0; i < std::min<std::size_t>(cases_.size(), 3); ++i)
      std::fprintf(file, "%s{\"case\": %s, \"seconds\": %.3f}", std::exchange(separator, ", "),
                   quoted(cases_[i].name).c_str(), cases_[i].seconds);
    std::fprintf(file, "], \"running\": %s}\n", name_.empty() ? "null" : quoted(name_).c_str());
    std::fclose(file);
  }

  Clock::time_point run_started_, case_started_;
  std::string name_;  // of the running case; empty: none
  Catch::Totals totals_;
  std::vector<Done> cases_;
};

CATCH_REGISTER_LISTENER(Report)

}  // namespace
