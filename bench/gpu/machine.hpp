// What is asked of the CUDA runtime beside launches: the device, clocks and graphs. Implemented in cuda.cpp;
// in emulated.cpp for runs in the emulator, whose times mean nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>

#include <cuda_runtime.h>

namespace bench {

/// The current device.
struct Machine {
  std::string name;
  int compute_capability = 0;  // 10 major + minor
  int multiprocessors = 0;
  std::int64_t memory_bytes = 0;
  std::int64_t cache_bytes = 0;  // of the last level
  int clock_megahertz = 0;       // the highest, of the multiprocessors
  int memory_megahertz = 0;      // likewise, of the memory
  int driver = 0, runtime = 0;   // versions of CUDA: 1000 major + 10 minor
  bool emulated = false;         // then sizes are small and calls few
};
Machine this_machine();
/// Bytes of the device's memory that nobody has taken.
std::int64_t free_memory();

inline void require_success(cudaError_t error, const char* call) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(error));
}

/// The time between two points of a stream.
class Stopwatch {
 public:
  explicit Stopwatch(cudaStream_t stream);
  ~Stopwatch();
  void start();
  void stop();
  /// Waits until the stream has passed `stop`.
  double microseconds();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Work that is enqueued as a whole: a graph, captured once.
class Replay {
 public:
  /// `enqueue` puts the work on the stream that it is given.
  explicit Replay(const std::function<void(cudaStream_t)>& enqueue);
  ~Replay();
  void launch(cudaStream_t stream);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace bench
