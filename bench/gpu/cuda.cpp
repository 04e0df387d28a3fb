// The CUDA runtime's clocks and graphs.
#include "machine.hpp"

namespace bench {
namespace {

int attribute(cudaDeviceAttr name, int device) {
  int value = 0;
  require_success(cudaDeviceGetAttribute(&value, name, device), "cudaDeviceGetAttribute");
  return value;
}

}  // namespace

Machine this_machine() {
  Machine m;
  int device = 0;
  require_success(cudaGetDevice(&device), "cudaGetDevice");
  cudaDeviceProp properties{};
  require_success(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  m.name = properties.name;
  m.compute_capability = 10 * properties.major + properties.minor;
  m.multiprocessors = properties.multiProcessorCount;
  m.memory_bytes = static_cast<std::int64_t>(properties.totalGlobalMem);
  m.cache_bytes = properties.l2CacheSize;
  m.clock_megahertz = attribute(cudaDevAttrClockRate, device) / 1000;
  m.memory_megahertz = attribute(cudaDevAttrMemoryClockRate, device) / 1000;
  require_success(cudaDriverGetVersion(&m.driver), "cudaDriverGetVersion");
  require_success(cudaRuntimeGetVersion(&m.runtime), "cudaRuntimeGetVersion");
  return m;
}

std::int64_t free_memory() {
  std::size_t free = 0, total = 0;
  require_success(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return static_cast<std::int64_t>(free);
}

struct Stopwatch::State {
  cudaStream_t stream;
  cudaEvent_t start, stop;
};

Stopwatch::Stopwatch(cudaStream_t stream) : state_(new State{stream, nullptr, nullptr}) {
  require_success(cudaEventCreate(&state_->start), "cudaEventCreate");
  require_success(cudaEventCreate(&state_->stop), "cudaEventCreate");
}
Stopwatch::~Stopwatch() {
  (void)cudaEventDestroy(state_->start);
  (void)cudaEventDestroy(state_->stop);
}
void Stopwatch::start() {
  require_success(cudaEventRecord(state_->start, state_->stream), "cudaEventRecord");
}
void Stopwatch::stop() { require_success(cudaEventRecord(state_->stop, state_->stream), "cudaEventRecord"); }
double Stopwatch::microseconds() {
  require_success(cudaEventSynchronize(state_->stop), "cudaEventSynchronize");
  float milliseconds = 0;
  require_success(cudaEventElapsedTime(&milliseconds, state_->start, state_->stop), "cudaEventElapsedTime");
  return 1000.0 * static_cast<double>(milliseconds);
}

struct Replay::State {
  cudaGraphExec_t graph = nullptr;
};

Replay::Replay(const std::function<void(cudaStream_t)>& enqueue) : state_(new State) {
  cudaStream_t stream = nullptr;
  cudaGraph_t captured = nullptr;
  require_success(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  require_success(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  enqueue(stream);
  require_success(cudaStreamEndCapture(stream, &captured), "cudaStreamEndCapture");
  require_success(cudaGraphInstantiate(&state_->graph, captured, 0), "cudaGraphInstantiate");
  require_success(cudaGraphDestroy(captured), "cudaGraphDestroy");
  require_success(cudaStreamDestroy(stream), "cudaStreamDestroy");
}
Replay::~Replay() { (void)cudaGraphExecDestroy(state_->graph); }
void Replay::launch(cudaStream_t stream) {
  require_success(cudaGraphLaunch(state_->graph, stream), "cudaGraphLaunch");
}

}  // namespace bench
