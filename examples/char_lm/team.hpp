// The model's threads: one small pool, which the library's calls use too.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

namespace char_lm {

/// Seconds and floating point operations spent in the parts of the model.
struct Profile {
  double multiply_seconds = 0, attention_seconds = 0;
  double multiply_flop = 0;
};

/// Adds the time until the end of its scope to `seconds`.
class Stopwatch {
 public:
  explicit Stopwatch(double& seconds) : seconds_(seconds) {}
  ~Stopwatch() { seconds_ += std::chrono::duration<double>(Clock::now() - start_).count(); }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  double& seconds_;
  Clock::time_point start_ = Clock::now();
};

/// A pool of threads, and what they have spent. Shares of work are claimed one by one, so that where another
/// process holds a core, the threads that run do the work of the one that does not. Idle threads sleep.
class Team {
 public:
  /// 0: one thread for each core.
  explicit Team(int threads)
      : threads_(threads > 0 ? threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()))) {
    for (int t = 1; t < threads_; ++t) workers_.emplace_back([this] { serve(); });
  }
  ~Team() {
    unclaimed_.store(stop);
    unclaimed_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int threads() const { return threads_; }
  Profile& profile() { return profile_; }

  using Body = void (*)(void* data, int share);

  /// Calls body(data, share) once for each share in [0, shares), and returns when all have returned.
  void run(int shares, Body body, void* data) {
    if (shares <= 1 || threads_ == 1) {
      for (int share = 0; share < shares; ++share) body(data, share);
      return;
    }
    body_ = body, data_ = data;
    unfinished_.store(shares, std::memory_order_relaxed);
    unclaimed_.store(shares, std::memory_order_release);
    unclaimed_.notify_all();
    while (claim()) {
    }
    for (int tries = 0;; ++tries) {
      const int left = unfinished_.load(std::memory_order_acquire);
      if (left == 0) return;
      rest(unfinished_, left, tries);
    }
  }

  /// Cuts [0, count) into a run for each thread, each a multiple of `grain` long but the last, and calls
  /// body(begin, end, share) for those that are not empty. No two calls have the same share.
  template <class RangeBody>
  void split(std::int64_t count, std::int64_t grain, const RangeBody& body) {
    const std::int64_t grains = (count + grain - 1) / grain,
                       shares = std::min<std::int64_t>(threads_, grains);
    auto of_share = [&](int share) {
      body(grains * share / shares * grain, std::min(count, grains * (share + 1) / shares * grain), share);
    };
    run(
        static_cast<int>(shares),
        [](void* data, int share) { (*static_cast<decltype(of_share)*>(data))(share); }, &of_share);
  }

 private:
  static constexpr int stop = -1;

  /// Runs a share if one is left.
  bool claim() {
    int left = unclaimed_.load(std::memory_order_relaxed);
    do
      if (left <= 0) return false;
    while (!unclaimed_.compare_exchange_weak(left, left - 1, std::memory_order_acquire));
    body_(data_, left - 1);
    if (unfinished_.fetch_sub(1, std::memory_order_release) == 1) unfinished_.notify_one();
    return true;
  }

  void serve() {
    for (int tries = 0;; ++tries) {
      if (claim()) tries = 0;
      const int left = unclaimed_.load(std::memory_order_relaxed);
      if (left == stop) return;
      if (left == 0) rest(unclaimed_, left, tries);
    }
  }

  /// Waits a little while `value` is `old`; after some tries, sleeps. The next share mostly comes within
  /// microseconds.
  static void rest(const std::atomic<int>& value, int old, int tries) {
    if (tries < 100)
      std::this_thread::yield();
    else
      value.wait(old);
  }

  int threads_;
  Profile profile_{};
  Body body_ = nullptr;
  void* data_ = nullptr;
  std::atomic<int> unclaimed_{0};   // shares, or `stop`
  std::atomic<int> unfinished_{0};  // shares
  std::vector<std::thread> workers_;
};

}  // namespace char_lm
