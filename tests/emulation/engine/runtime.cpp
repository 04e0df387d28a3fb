// The calls of the CUDA runtime.
#include <cuda.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include <emulation.hpp>

#include "global_memory.hpp"

struct CUstream_st {};

/// Launches on each stream that something is past.
using Past = std::map<cudaStream_t, std::size_t>;
struct CUevent_st {
  Past past{};
  cudaStream_t captured_by = nullptr;  // the stream whose capture it was recorded in
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
std::map<cudaStream_t, cudaStream_t> capturing;  // and the stream that the capture began on
std::map<cudaStream_t, Past> past;               // of each stream

void join(Past& into, const Past& other) {
  for (const auto& [stream, launches] : other) into[stream] = (std::max)(into[stream], launches);
}

bool is_capturing(cudaStream_t stream) {
  const std::lock_guard<std::mutex> alone(calling);
  return capturing.count(stream) > 0;
}

enum class Side { host, device };

// The host's address of what a copy or a fill touches; null if it is not there.
void* memory_of(const void* pointer, std::size_t bytes, Side side) {
  if (GlobalMemory::is_device(pointer) != (side == Side::device)) return nullptr;
  return side == Side::device ? global_memory().host(pointer, bytes) : const_cast<void*>(pointer);
}

// The place of a value among those seen so far, which it joins.
template <class T>
std::size_t place_of(std::vector<T>& seen, const T& value) {
  const auto found = std::find(seen.begin(), seen.end(), value);
  const auto place = static_cast<std::size_t>(found - seen.begin());
  if (found == seen.end()) seen.push_back(value);
  return place;
}

using DeviceValues = std::array<std::size_t, 3>;
std::vector<DeviceValues> devices;
int current_device() {
  const auto& o = options();
  return static_cast<int>(
      place_of(devices, {static_cast<std::size_t>(o.compute_capability),
                         static_cast<std::size_t>(o.multiprocessors), o.shared_bytes_per_block}));
}

int code_version() {
  return options().compiled_for != 0 ? options().compiled_for : options().compute_capability;
}
// A program compiled for something else is another process, whose contexts are others.
using ContextValues = std::array<std::uint64_t, 4>;
std::vector<ContextValues> contexts;
std::uint64_t current_context() {
  return 1 + place_of(contexts, {static_cast<std::uint64_t>(current_device()), options().context,
                                 static_cast<std::uint64_t>(code_version()),
                                 static_cast<std::uint64_t>(options().compiled_for_sm90a)});
}

cottention::emulation::RuntimeCalls calls;
constexpr int shared_bytes_without_asking = 48 * 1024;
std::map<std::pair<std::uint64_t, const void*>, int> most_dynamic_shared_bytes;
int most_shared_bytes(const void* function) {
  const auto found = most_dynamic_shared_bytes.find({current_context(), function});
  return found == most_dynamic_shared_bytes.end() ? shared_bytes_without_asking : found->second;
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

bool has_room(const void* function, std::size_t shared_bytes) {
  const std::lock_guard<std::mutex> alone(calling);
  return shared_bytes <= static_cast<std::size_t>(most_shared_bytes(function)) &&
         shared_bytes <= options().shared_bytes_per_block;
}

bool is_empty(const void*) { return code_version() < 80; }

RuntimeCalls runtime_calls() {
  const std::lock_guard<std::mutex> alone(calling);
  return calls;
}

}  // namespace cottention::emulation

namespace {

struct ErrorText {
  cudaError_t error;
  const char* name;
  const char* text;
};
constexpr ErrorText error_texts[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
};
ErrorText text_of(cudaError_t error) {
  for (const ErrorText& x : error_texts)
    if (x.error == error) return x;
  return {error, "cudaErrorUnknown", "unrecognized error code"};
}

}  // namespace

const char* cudaGetErrorName(cudaError_t error) { return text_of(error).name; }
const char* cudaGetErrorString(cudaError_t error) { return text_of(error).text; }

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
  {
    const std::lock_guard<std::mutex> alone(calling);
    ++calls.current_device;
    *device = current_device();
  }
  return report(options().devices > 0 ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device) { return report(device == 0 ? cudaSuccess : cudaErrorInvalidDevice); }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  const std::lock_guard<std::mutex> alone(calling);
  ++calls.device_attributes;
  if (device != current_device()) return report(cudaErrorInvalidDevice);
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

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
  const std::lock_guard<std::mutex> alone(calling);
  ++calls.function_attributes;
  if (options().context == 0) options().context = 1;
  *attributes = {.ptxVersion = code_version(),
                 .binaryVersion = options().compute_capability,
                 .maxDynamicSharedSizeBytes = most_shared_bytes(function),
                 .sharedSizeBytes = options().compiled_for_sm90a && code_version() == 90 ? 0u : 4u};
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  const std::lock_guard<std::mutex> alone(calling);
  ++calls.function_attributes;
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
      static_cast<std::size_t>(value) > options().shared_bytes_per_block)
    return report(cudaErrorInvalidValue);
  most_dynamic_shared_bytes[{current_context(), function}] = value;
  return cudaSuccess;
}

CUresult cuCtxGetId(CUcontext context, unsigned long long* number) {
  const std::lock_guard<std::mutex> alone(calling);
  if (context != nullptr || options().context == 0) return CUDA_ERROR_INVALID_CONTEXT;
  *number = current_context();
  return CUDA_SUCCESS;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  const bool known = std::strcmp(name, "cuCtxGetId") == 0;
  *function = known ? reinterpret_cast<void*>(&cuCtxGetId) : nullptr;
  *found = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
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
                            cudaStream_t stream) {
  return is_capturing(stream) ? cudaSuccess : cudaMemcpy(to, from, bytes, kind);
}

cudaError_t cudaMemset(void* device_pointer, int byte, std::size_t bytes) {
  if (bytes == 0) return cudaSuccess;
  const std::lock_guard<std::mutex> alone(calling);
  void* const memory = memory_of(device_pointer, bytes, Side::device);
  if (memory == nullptr) return report(cudaErrorInvalidValue);
  std::memset(memory, byte, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* device_pointer, int byte, std::size_t bytes, cudaStream_t stream) {
  return is_capturing(stream) ? cudaSuccess : cudaMemset(device_pointer, byte, bytes);
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

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return report(is_capturing(stream) ? cudaErrorStreamCaptureUnsupported : cudaSuccess);
}

cudaError_t cudaStreamQuery(cudaStream_t stream) { return cudaStreamSynchronize(stream); }

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const std::lock_guard<std::mutex> alone(calling);
  if (stream == nullptr) return report(cudaErrorStreamCaptureUnsupported);
  return report(capturing.emplace(stream, stream).second ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::lock_guard<std::mutex> alone(calling);
  static CUgraph_st empty;
  *graph = &empty;
  const std::size_t ended =
      std::erase_if(capturing, [stream](const auto& captured) { return captured.second == stream; });
  return report(ended > 0 ? cudaSuccess : cudaErrorInvalidValue);
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
  const auto captured = capturing.find(stream);
  event->captured_by = captured != capturing.end() ? captured->second : nullptr;
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const std::lock_guard<std::mutex> alone(calling);
  if (event == nullptr) return report(cudaErrorInvalidResourceHandle);
  join(past[stream], event->past);
  if (event->captured_by != nullptr) capturing.emplace(stream, event->captured_by);
  return cudaSuccess;
}
