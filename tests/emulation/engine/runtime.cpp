// The calls of the CUDA runtime.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <set>

#include <emulation.hpp>

#include "global_memory.hpp"

struct CUstream_st {};

/// Launches on each stream that something is past.
using Past = std::map<cudaStream_t, std::size_t>;
struct CUevent_st {
  Past past{};
};
struct CUgraph_st {};

namespace {

using cottention::emulation::global_memory;
using cottention::emulation::GlobalMemory;
using cottention::emulation::options;
using cottention::emulation::report;

thread_local cudaError_t last_error = cudaSuccess;
std::mutex calling;  // host threads may call at the same time
std::set<cudaStream_t> streams;
std::set<cudaStream_t> capturing;
std::map<cudaStream_t, Past> past;  // of each stream

void join(Past& into, const Past& other) {
  for (const auto& [stream, launches] : other) into[stream] = (std::max)(into[stream], launches);
}

enum class Side { host, device };

// The host's address of what a copy or a fill touches; null if it is not there.
void* memory_of(const void* pointer, std::size_t bytes, Side side) {
  if (GlobalMemory::is_device(pointer) != (side == Side::device)) return nullptr;
  return side == Side::device ? global_memory().host(pointer, bytes) : const_cast<void*>(pointer);
}

Side side_of(const void* pointer) { return GlobalMemory::is_device(pointer) ? Side::device : Side::host; }

}  // namespace

namespace cottention::emulation {

cudaError_t report(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

bool begin_launch(cudaStream_t stream) {
  const std::lock_guard<std::mutex> alone(calling);
  if (capturing.count(stream) > 0) return false;
  ++past[stream][stream];
  return true;
}

std::size_t launches_before(cudaStream_t stream, cudaStream_t earlier) {
  const std::lock_guard<std::mutex> alone(calling);
  return past[stream][earlier];
}

}  // namespace cottention::emulation

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidMemcpyDirection:
      return "cudaErrorInvalidMemcpyDirection";
    case cudaErrorInvalidDeviceFunction:
      return "cudaErrorInvalidDeviceFunction";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorNoKernelImageForDevice:
      return "cudaErrorNoKernelImageForDevice";
    case cudaErrorInvalidResourceHandle:
      return "cudaErrorInvalidResourceHandle";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    case cudaErrorNotSupported:
      return "cudaErrorNotSupported";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
  }
  return "cudaErrorUnknown";
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidMemcpyDirection:
      return "invalid copy direction for memcpy";
    case cudaErrorInvalidDeviceFunction:
      return "invalid device function";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorNoKernelImageForDevice:
      return "no kernel image is available for execution on the device";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorLaunchFailure:
      return "unspecified launch failure";
    case cudaErrorNotSupported:
      return "operation not supported";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
  }
  return "unrecognized error code";
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() { return last_error; }

// ---- the device
// --------------------------------------------------------------------------------------------

cudaError_t cudaGetDeviceCount(int* count) {
  *count = options().devices;
  return report(*count > 0 ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return report(options().devices > 0 ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device) { return report(device == 0 ? cudaSuccess : cudaErrorInvalidDevice); }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device != 0) return report(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = options().multiprocessors;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = options().compute_capability / 10;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = options().compute_capability % 10;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(options().shared_bytes_per_block);
      return cudaSuccess;
  }
  return report(cudaErrorInvalidValue);
}

cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }

// ---- memory
// ------------------------------------------------------------------------------------------------

cudaError_t cudaMalloc(void** device_pointer, std::size_t bytes) {
  if (device_pointer == nullptr) return report(cudaErrorInvalidValue);
  *device_pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  const std::lock_guard<std::mutex> alone(calling);
  if (!capturing.empty()) return report(cudaErrorStreamCaptureUnsupported);
  *device_pointer = global_memory().allocate(bytes, options().fresh);
  return report(*device_pointer != nullptr ? cudaSuccess : cudaErrorMemoryAllocation);
}

cudaError_t cudaFree(void* device_pointer) {
  if (device_pointer == nullptr) return cudaSuccess;
  const std::lock_guard<std::mutex> alone(calling);
  if (!capturing.empty()) return report(cudaErrorStreamCaptureUnsupported);
  const bool known = global_memory().release(device_pointer) == GlobalMemory::Release::released;
  return report(known ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  if (bytes == 0) return cudaSuccess;
  Side to_side = side_of(to), from_side = side_of(from);
  switch (kind) {
    case cudaMemcpyHostToHost:
      to_side = from_side = Side::host;
      break;
    case cudaMemcpyHostToDevice:
      to_side = Side::device, from_side = Side::host;
      break;
    case cudaMemcpyDeviceToHost:
      to_side = Side::host, from_side = Side::device;
      break;
    case cudaMemcpyDeviceToDevice:
      to_side = from_side = Side::device;
      break;
    case cudaMemcpyDefault:
      break;
    default:
      return report(cudaErrorInvalidMemcpyDirection);
  }
  const std::lock_guard<std::mutex> alone(calling);
  void* const to_memory = memory_of(to, bytes, to_side);
  const void* const from_memory = memory_of(from, bytes, from_side);
  if (to_memory == nullptr || from_memory == nullptr) return report(cudaErrorInvalidValue);
  std::memmove(to_memory, from_memory, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t) {
  return cudaMemcpy(to, from, bytes, kind);
}

cudaError_t cudaMemset(void* device_pointer, int byte, std::size_t bytes) {
  if (bytes == 0) return cudaSuccess;
  const std::lock_guard<std::mutex> alone(calling);
  void* const memory = memory_of(device_pointer, bytes, Side::device);
  if (memory == nullptr) return report(cudaErrorInvalidValue);
  std::memset(memory, byte, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* device_pointer, int byte, std::size_t bytes, cudaStream_t) {
  return cudaMemset(device_pointer, byte, bytes);
}

// ---- streams
// -----------------------------------------------------------------------------------------------

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  const std::lock_guard<std::mutex> alone(calling);
  *stream = new CUstream_st;
  streams.insert(*stream);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return cudaStreamCreate(stream); }

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::lock_guard<std::mutex> alone(calling);
  if (streams.erase(stream) == 0) return report(cudaErrorInvalidResourceHandle);
  past.erase(stream);
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const std::lock_guard<std::mutex> alone(calling);
  if (stream == nullptr) return report(cudaErrorStreamCaptureUnsupported);
  return report(capturing.insert(stream).second ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::lock_guard<std::mutex> alone(calling);
  static CUgraph_st empty;
  *graph = &empty;
  return report(capturing.erase(stream) == 1 ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaGraphDestroy(cudaGraph_t) { return cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const std::lock_guard<std::mutex> alone(calling);
  *status = capturing.count(stream) > 0 ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  if (event == nullptr) return report(cudaErrorInvalidResourceHandle);
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const std::lock_guard<std::mutex> alone(calling);
  if (event == nullptr) return report(cudaErrorInvalidResourceHandle);
  event->past = past[stream];
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const std::lock_guard<std::mutex> alone(calling);
  if (event == nullptr) return report(cudaErrorInvalidResourceHandle);
  join(past[stream], event->past);
  return cudaSuccess;
}
