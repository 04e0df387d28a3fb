// Calls captured in a CUDA graph, replayed with one launch.
#pragma once

#include "device_support.hpp"

class Graph {
 public:
  Graph() = default;
  ~Graph() {
    if (executable_ != nullptr) (void)cudaGraphExecDestroy(executable_);
    if (graph_ != nullptr) (void)cudaGraphDestroy(graph_);
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  /// `enqueue()` makes its calls on `stream`, where they are recorded and not run, and returns their status.
  template <class Enqueue>
  cottention::CallStatus capture(const Stream& stream, Enqueue enqueue) {
    using cottention::device::status_of;
    // Relaxed, because a kernel's code may be loaded when it is first asked for.
    cudaError_t error = cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeRelaxed);
    if (error != cudaSuccess) return status_of(error, "cudaStreamBeginCapture");
    const cottention::CallStatus status = enqueue();
    error = cudaStreamEndCapture(stream.get(), &graph_);
    if (!status) return status;
    if (error != cudaSuccess) return status_of(error, "cudaStreamEndCapture");
    return status_of(cudaGraphInstantiate(&executable_, graph_, 0), "cudaGraphInstantiate");
  }
  cottention::CallStatus replay(const Stream& stream) const {
    return cottention::device::status_of(cudaGraphLaunch(executable_, stream.get()), "cudaGraphLaunch");
  }

 private:
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
};
