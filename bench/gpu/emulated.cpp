// Stands in for cuda.cpp in the emulator: the host's clock, and work that is enqueued anew.
#include <chrono>

#include "machine.hpp"

namespace bench {

Machine this_machine() {
  Machine m;
  m.name = "emulator";
  m.emulated = true;
  int major = 0, minor = 0;
  require_success(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0),
                  "cudaDeviceGetAttribute");
  require_success(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0),
                  "cudaDeviceGetAttribute");
  require_success(cudaDeviceGetAttribute(&m.multiprocessors, cudaDevAttrMultiProcessorCount, 0),
                  "cudaDeviceGetAttribute");
  m.compute_capability = 10 * major + minor;
  m.memory_bytes = std::int64_t{1} << 30;
  return m;
}

// Nothing but the benchmark's own buffers is taken there.
std::int64_t free_memory() { return 0; }

struct Stopwatch::State {
  std::chrono::steady_clock::time_point start, stop;
};

Stopwatch::Stopwatch(cudaStream_t) : state_(new State) {}
Stopwatch::~Stopwatch() = default;
void Stopwatch::start() { state_->start = std::chrono::steady_clock::now(); }
void Stopwatch::stop() { state_->stop = std::chrono::steady_clock::now(); }
double Stopwatch::microseconds() {
  return std::chrono::duration<double, std::micro>(state_->stop - state_->start).count();
}

struct Replay::State {
  std::function<void(cudaStream_t)> enqueue;
};

Replay::Replay(const std::function<void(cudaStream_t)>& enqueue) : state_(new State{enqueue}) {}
Replay::~Replay() = default;
void Replay::launch(cudaStream_t stream) { state_->enqueue(stream); }

}  // namespace bench
