// Scratch memory of CUDA calls that is allocated as they need it, and the calls with it. An optional header:
// the library itself allocates nothing, and includes it nowhere. owned_workspace.hpp is its like for the CPU.
//
// The memory is cudaMalloc's, not the stream's (cudaMallocAsync): every device has it, calls on any stream
// may use it, and cudaFree waits until the device is done with it, so that a workspace may grow or go while
// earlier calls run and need outlive no stream. The price is that wait, paid where it grows and where it
// goes; `reserve` says when.
#pragma once

#include <cottention/requirements.hpp>

#include <cottention/host_only.hpp>

#include <cstddef>
#include <utility>

#include <cuda_runtime.h>

#include <cottention/cottention.cuh>

namespace cottention {

/// Device memory for the workspaces of calls:
///
///     DeviceWorkspace workspace;
///     CallStatus status = forward<P>(arguments, workspace, stream);
///
/// It grows where a call needs more than it has: to what is needed, and at least by half, so that a series of
/// ever larger calls seldom allocates. Growing waits for the device. It becomes smaller by `release` alone.
/// Contents are not kept. Moved from, it is empty. One thread at a time may call with it.
///
/// Calls with one workspace run one after the other, whatever streams they are on: each that needs memory
/// waits on the device for the one before. All are on one device, that which was current when the first got
/// memory.
///
/// A captured call must find memory enough: call `reserve`, or the same call once, before. Its graph keeps
/// the address, so the workspace does not grow from then on. Replays of the graph and other calls with the
/// workspace are for the caller to order: best give a graph its own.
class DeviceWorkspace {
 public:
  DeviceWorkspace() = default;
  ~DeviceWorkspace() { release(); }
  DeviceWorkspace(DeviceWorkspace&& other) noexcept : state_(std::exchange(other.state_, {})) {}
  DeviceWorkspace& operator=(DeviceWorkspace&& other) noexcept {
    std::swap(state_, other.state_);
    if (this != &other) other.release();
    return *this;
  }

  /// Makes sure of `bytes` on the current device. Refused: bad_workspace on another device than before and
  /// after a captured call; cuda_error where there is no memory, and then the workspace is empty, and while
  /// a capture forbids to allocate: one of this thread, or one of any in cudaStreamCaptureModeGlobal, which
  /// the attempt ends.
  [[nodiscard]] CallStatus reserve(std::size_t bytes) {
    int device = 0;
    if (cudaError_t error = cudaGetDevice(&device); error != cudaSuccess)
      return refusal(error, "cudaGetDevice");
    if (state_.memory.data != nullptr && device != state_.device)
      return CallStatus::failure(
          StatusCode::bad_workspace,
          "workspace: is on device %d, and the current one is %d. Remedy: a workspace for "
          "each device",
          state_.device, device);
    if (bytes <= state_.memory.bytes) return {};
    if (state_.captured)
      return CallStatus::failure(StatusCode::bad_workspace,
                                 "workspace.bytes = %zu: must be at least %zu, and cannot grow, because a "
                                 "captured call has its address. Remedy: a workspace for each graph",
                                 state_.memory.bytes, bytes);
    const std::size_t larger = state_.memory.bytes + state_.memory.bytes / 2;
    if (cudaError_t error = free_memory(); error != cudaSuccess)
      return refusal(error, "cudaFree of the workspace");
    if (state_.event != nullptr && device != state_.device) {
      if (cudaError_t error = cudaEventDestroy(state_.event); error != cudaSuccess)
        return refusal(error, "cudaEventDestroy");
      state_.event = nullptr;
    }
    state_.device = device;
    if (state_.event == nullptr)
      if (cudaError_t error = cudaEventCreateWithFlags(&state_.event, cudaEventDisableTiming);
          error != cudaSuccess)
        return refusal(error, "cudaEventCreateWithFlags");
    if (bytes < larger && allocate(larger) == cudaSuccess) return {};
    const cudaError_t error = allocate(bytes);
    return error == cudaSuccess ? CallStatus{} : refusal(error, "cudaMalloc for the workspace");
  }

  /// Waits for the device and gives the memory back, unless a capture forbids it: then it is kept. No graph
  /// that was captured with it may run any more. Going while a capture forbids it loses the memory.
  void release() {
    if (free_memory() != cudaSuccess) {
      (void)cudaGetLastError();
      return;
    }
    if (state_.event != nullptr) (void)cudaEventDestroy(state_.event);
    state_ = {};
  }

  std::size_t bytes() const { return state_.memory.bytes; }
  /// For calls that take a Workspace, until the next `reserve` or `release`. The caller orders those.
  Workspace get() const { return state_.memory; }

  /// Returns what `call(Workspace)` does with `bytes` of memory on `stream`, after all earlier uses.
  template <class Call>
  CallStatus use(std::size_t bytes, cudaStream_t stream, Call call) {
    if (bytes == 0) return call(Workspace{});
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    if (cudaError_t error = cudaStreamIsCapturing(stream, &capture); error != cudaSuccess)
      return refusal(error, "cudaStreamIsCapturing");
    if (capture != cudaStreamCaptureStatusNone) {
      if (bytes > state_.memory.bytes)
        return CallStatus::failure(
            StatusCode::bad_workspace,
            "workspace.bytes = %zu: must be at least %zu, and cannot grow while the stream "
            "is captured. Remedy: call reserve(%zu) before",
            state_.memory.bytes, bytes, bytes);
      if (CallStatus status = reserve(bytes); !status) return status;  // for its device
      state_.captured = true;
      return call(state_.memory);
    }
    if (CallStatus status = reserve(bytes); !status) return status;
    if (cudaError_t error = cudaStreamWaitEvent(stream, state_.event, 0); error != cudaSuccess)
      return refusal(error, "cudaStreamWaitEvent");
    const CallStatus status = call(state_.memory);
    const cudaError_t error = cudaEventRecord(state_.event, stream);
    return status && error != cudaSuccess ? refusal(error, "cudaEventRecord") : status;
  }

 private:
  struct State {
    Workspace memory{};
    cudaEvent_t event = nullptr;  // past the last call that was not captured
    int device = 0;
    bool captured = false;  // a call with this memory is in a graph
  };

  /// The runtime's refusal, not left behind for cudaGetLastError.
  static CallStatus refusal(cudaError_t error, const char* call) {
    (void)cudaGetLastError();
    return device::status_of(error, call);
  }
  cudaError_t allocate(std::size_t bytes) {
    const cudaError_t error = cudaMalloc(&state_.memory.data, bytes);
    if (error != cudaSuccess) {
      (void)cudaGetLastError();
      state_.memory.data = nullptr;
    }
    state_.memory.bytes = error == cudaSuccess ? bytes : 0;
    return error;
  }
  /// What cannot be freed, as during a capture that forbids it, is kept.
  cudaError_t free_memory() {
    const cudaError_t error = state_.memory.data != nullptr ? cudaFree(state_.memory.data) : cudaSuccess;
    if (error == cudaSuccess) state_.memory = {};
    return error;
  }

  State state_{};
};

namespace host {

/// Makes room for a call of P that is valid, so that no other makes it grow.
template <AnyProblem P, class Arguments, class Call>
CallStatus call_with(DeviceWorkspace& workspace, const Arguments& args, std::size_t bytes,
                     cudaStream_t stream, Call call) {
  if (bytes > workspace.bytes()) {
    if (CallStatus status = validate<P>(args); !status) return status;
    if (CallStatus status = validate_for_device<P>(args); !status) return status;
  }
  return workspace.use(bytes, stream, call);
}

}  // namespace host

/// `forward`, `backward` and `step` in memory that grows as they need it; with a Tiling of the caller's or
/// the library's. Anything but ok is theirs, or that of DeviceWorkspace.
template <AnyProblem P, Tiling... tiling>
[[nodiscard]] CallStatus forward(const ForwardArguments<typename P::element>& args,
                                 DeviceWorkspace& workspace, cudaStream_t stream, Split split = {}) {
  std::size_t bytes = 0;
  if (CallStatus status = workspace_bytes<P, tiling...>(args, bytes, split); !status) return status;
  return host::call_with<P>(workspace, args, bytes, stream, [&](Workspace memory) {
    return forward<P, tiling...>(args, memory, stream, split);
  });
}

template <AnyProblem P, Tiling... tiling>
[[nodiscard]] CallStatus backward(const BackwardArguments<typename P::element>& args,
                                  DeviceWorkspace& workspace, cudaStream_t stream, Split split = {}) {
  std::size_t bytes = 0;
  if (CallStatus status = workspace_bytes<P, tiling...>(args, bytes, split); !status) return status;
  return host::call_with<P>(workspace, args, bytes, stream, [&](Workspace memory) {
    return backward<P, tiling...>(args, memory, stream, split);
  });
}

template <AnyProblem P, Tiling... tiling>
[[nodiscard]] CallStatus step(const StepArguments<typename P::element>& args, DeviceWorkspace& workspace,
                              cudaStream_t stream) {
  std::size_t bytes = 0;
  if (CallStatus status = workspace_bytes<P>(args, bytes); !status) return status;
  return host::call_with<P>(workspace, args, bytes, stream,
                            [&](Workspace memory) { return step<P, tiling...>(args, memory, stream); });
}

}  // namespace cottention
