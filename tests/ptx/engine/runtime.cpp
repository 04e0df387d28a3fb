// The CUDA runtime library's calls, for one device that is the PTX machine. Everything is synchronous. A
// kernel that breaks a rule throws from its launch.
#include <cuda.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <set>

#include "device.hpp"
#include "tensor_map.hpp"

using namespace cottention::ptx;

namespace {

thread_local cudaError_t last_error = cudaSuccess;

cudaError_t report(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

struct Recorded {
  const Program* program;
  Launch launch;
};
using Record = std::vector<Recorded>;
struct Stream {
  bool captures = false;
  Record record;
};
std::set<cudaStream_t> streams;

Stream* stream_of(cudaStream_t stream) { return reinterpret_cast<Stream*>(stream); }
std::uint64_t number(const void* pointer) { return reinterpret_cast<std::uint64_t>(pointer); }

/// The host's address of what a copy or a fill touches; null if it is not there.
void* memory_of(const void* pointer, std::size_t bytes, bool on_device) {
  if (global_memory().is_device(number(pointer)) != on_device) return nullptr;
  if (!on_device) return const_cast<void*>(pointer);
  const auto* const its = global_memory().find(number(pointer), bytes);
  return its == nullptr ? nullptr : its->bytes + (number(pointer) - its->begin);
}

bool within(Size size, std::uint64_t x, std::uint64_t y, std::uint64_t z) {
  return size.x >= 1 && size.y >= 1 && size.z >= 1 && size.x <= x && size.y <= y && size.z <= z;
}

cudaError_t launch(Kernel* kernel, dim3 grid, dim3 block, std::size_t shared, void** args,
                   cudaStream_t stream) {
  const std::lock_guard alone(Device::instance().mutex);
  if (kernel == nullptr) return report(cudaErrorInvalidDeviceFunction);
  const Program* const program = Device::instance().program(*kernel);
  if (program == nullptr) return report(cudaErrorNoKernelImageForDevice);
  Launch its{{grid.x, grid.y, grid.z},
             {block.x, block.y, block.z},
             shared,
             std::vector<std::uint8_t>(program->param_bytes)};
  // CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
  if (!within(its.grid, 0x7fffffff, 65535, 65535) || !within(its.block, 1024, 1024, 64))
    return report(cudaErrorInvalidConfiguration);
  if (std::uint64_t{block.x} * block.y * block.z > 1024) return report(cudaErrorInvalidConfiguration);
  if (block.x * block.y * block.z > static_cast<unsigned>(program->max_threads))
    return report(cudaErrorInvalidValue);
  if (shared > kernel->most_dynamic_shared_bytes) return report(cudaErrorInvalidValue);
  for (std::size_t n = 0; n < program->param_offsets.size(); ++n)
    std::memcpy(its.params.data() + program->param_offsets[n], args[n], program->param_sizes[n]);
  if (stream != nullptr && streams.count(stream) != 0 && stream_of(stream)->captures)
    stream_of(stream)->record.push_back({program, std::move(its)});
  else
    run(*program, its);
  return cudaSuccess;
}

/// cuTensorMapEncodeTiled. CUDA driver API: what it refuses.
CUresult encode_map(CUtensorMap* to, CUtensorMapDataType type, cuuint32_t rank, void* address,
                    const cuuint64_t* extents, const cuuint64_t* strides, const cuuint32_t* box,
                    const cuuint32_t* steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                    CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  const auto element = static_cast<std::uint32_t>(type == CU_TENSOR_MAP_DATA_TYPE_FLOAT64   ? 8
                                                  : type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32 ? 4
                                                                                            : 2);
  if (rank < 2 || rank > 4 || interleave != CU_TENSOR_MAP_INTERLEAVE_NONE || number(address) % 16 != 0)
    return CUDA_ERROR_INVALID_VALUE;
  TensorMap map{TensorMap::known, number(address), {1, 1, 1, 1}, {}, {1, 1, 1, 1}, rank, element, 0};
  for (cuuint32_t d = 0; d < rank; ++d) {
    if (extents[d] == 0 || extents[d] > std::uint64_t{1} << 32 || box[d] == 0 || box[d] > 256 ||
        steps[d] != 1)
      return CUDA_ERROR_INVALID_VALUE;
    map.extents[d] = extents[d];
    map.box[d] = static_cast<std::uint16_t>(box[d]);
    if (d == 0) continue;
    if (strides[d - 1] % 16 != 0 || strides[d - 1] >= std::uint64_t{1} << 40) return CUDA_ERROR_INVALID_VALUE;
    map.strides[d - 1] = strides[d - 1];
  }
  const std::uint32_t row = box[0] * element, span = 16u << static_cast<int>(swizzle);
  if (row % 16 != 0 || (swizzle != CU_TENSOR_MAP_SWIZZLE_NONE && row > span)) return CUDA_ERROR_INVALID_VALUE;
  map.swizzle_units = span / 16 - 1;
  std::memcpy(to, &map, sizeof map);
  return CUDA_SUCCESS;
}

/// cuCtxGetId, of the one context.
CUresult context_number(CUcontext, unsigned long long* number) {
  *number = 1;
  return CUDA_SUCCESS;
}

struct Configuration {
  dim3 grid, block;
  std::size_t shared;
  cudaStream_t stream;
};
thread_local std::vector<Configuration> configurations;

}  // namespace

extern "C" {

// ---- what nvcc's code calls
// -----------------------------------------------------------------------------------

void** __cudaRegisterFatBinary(void* fat_binary) {
  try {
    return reinterpret_cast<void**>(Device::instance().add_unit(fat_binary));
  } catch (const Error& error) {  // before main: nobody else would report it
    std::cerr << error.what() << "\n";
    std::abort();
  }
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }
void __cudaRegisterFunction(void** unit, const char* host_function, char*, const char* name, int, uint3*,
                            uint3*, dim3*, dim3*, int*) {
  Device::instance().add_kernel(reinterpret_cast<Unit*>(unit), host_function, name);
}
void __cudaRegisterVar(void**, char*, char*, const char*, int, std::size_t, int, int) {}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, std::size_t shared, CUstream_st* stream) {
  configurations.push_back({grid, block, shared, stream});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, std::size_t* shared, void* stream) {
  const Configuration its = configurations.back();
  configurations.pop_back();
  *grid = its.grid;
  *block = its.block;
  *shared = its.shared;
  *static_cast<cudaStream_t*>(stream) = its.stream;
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host_function) {
  *kernel = reinterpret_cast<cudaKernel_t>(Device::instance().kernel(host_function));
  return *kernel == nullptr ? report(cudaErrorInvalidDeviceFunction) : cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** args, std::size_t shared,
                               cudaStream_t stream) {
  return launch(reinterpret_cast<Kernel*>(kernel), grid, block, shared, args, stream);
}

// ---- kernels
// --------------------------------------------------------------------------------------------------

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** args) {
  if (config->numAttrs != 0) return report(cudaErrorNotSupported);
  return launch(Device::instance().kernel(function), config->gridDim, config->blockDim,
                config->dynamicSmemBytes, args, config->stream);
}
cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** args, std::size_t shared,
                             cudaStream_t stream) {
  return launch(Device::instance().kernel(function), grid, block, shared, args, stream);
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
  const std::lock_guard alone(Device::instance().mutex);
  Kernel* const kernel = Device::instance().kernel(function);
  if (kernel == nullptr) return report(cudaErrorInvalidDeviceFunction);
  const Program* const program = Device::instance().program(*kernel);
  if (program == nullptr) return report(cudaErrorNoKernelImageForDevice);
  *attributes = {};
  attributes->sharedSizeBytes = program->shared_bytes;
  attributes->localSizeBytes = program->local_bytes;
  attributes->maxThreadsPerBlock = program->max_threads;
  attributes->ptxVersion = attributes->binaryVersion = Device::instance().compute_capability();
  attributes->maxDynamicSharedSizeBytes = static_cast<int>(kernel->most_dynamic_shared_bytes);
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  const std::lock_guard alone(Device::instance().mutex);
  Kernel* const kernel = Device::instance().kernel(function);
  if (kernel == nullptr) return report(cudaErrorInvalidDeviceFunction);
  const Program* const program = Device::instance().program(*kernel);
  if (program == nullptr) return report(cudaErrorNoKernelImageForDevice);
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return report(cudaErrorNotSupported);
  const std::size_t most = Device::instance().shared_bytes_per_block() - program->shared_bytes;
  if (value < 0 || static_cast<std::size_t>(value) > most) return report(cudaErrorInvalidValue);
  kernel->most_dynamic_shared_bytes = static_cast<std::size_t>(value);
  return cudaSuccess;
}

// ---- the device
// -----------------------------------------------------------------------------------------------

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() { return last_error; }
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
    case cudaErrorInvalidDeviceFunction:
      return "invalid device function";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorNoKernelImageForDevice:
      return "no kernel image is available for execution on the device";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorNotSupported:
      return "operation not supported";
    default:
      return "unrecognized error code";
  }
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  *function = nullptr;
  if (std::strcmp(name, "cuTensorMapEncodeTiled") == 0) *function = reinterpret_cast<void*>(&encode_map);
  if (std::strcmp(name, "cuCtxGetId") == 0) *function = reinterpret_cast<void*>(&context_number);
  const bool known = *function != nullptr;
  *found = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : report(cudaErrorInvalidDevice); }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device != 0) return report(cudaErrorInvalidDevice);
  const Device& its = Device::instance();
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = its.compute_capability() / 10;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = its.compute_capability() % 10;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = its.compute_capability() >= 90 ? 132 : 108;  // H100 SXM and A100
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(its.shared_bytes_per_block());
      return cudaSuccess;
    default:
      return report(cudaErrorInvalidValue);
  }
}

// ---- memory
// ---------------------------------------------------------------------------------------------------

cudaError_t cudaMalloc(void** pointer, std::size_t bytes) {
  const std::lock_guard alone(Device::instance().mutex);
  *pointer = bytes == 0 ? nullptr : reinterpret_cast<void*>(global_memory().allocate(bytes));
  return *pointer == nullptr && bytes != 0 ? report(cudaErrorMemoryAllocation) : cudaSuccess;
}
cudaError_t cudaFree(void* pointer) {
  const std::lock_guard alone(Device::instance().mutex);
  return pointer == nullptr || global_memory().release(number(pointer)) ? cudaSuccess
                                                                        : report(cudaErrorInvalidValue);
}
cudaError_t cudaMemGetInfo(std::size_t* unused, std::size_t* total) {
  *unused = *total = std::size_t{1} << 30;
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  const std::lock_guard alone(Device::instance().mutex);
  if (bytes == 0) return cudaSuccess;
  const bool any = kind == cudaMemcpyDefault;
  const bool to_device = any ? global_memory().is_device(number(to))
                             : kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = any ? global_memory().is_device(number(from))
                               : kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  void* const to_memory = memory_of(to, bytes, to_device);
  const void* const from_memory = memory_of(from, bytes, from_device);
  if (to_memory == nullptr || from_memory == nullptr) return report(cudaErrorInvalidValue);
  std::memmove(to_memory, from_memory, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t) {
  return cudaMemcpy(to, from, bytes, kind);
}
cudaError_t cudaMemset(void* pointer, int byte, std::size_t bytes) {
  const std::lock_guard alone(Device::instance().mutex);
  if (bytes == 0) return cudaSuccess;
  void* const memory = memory_of(pointer, bytes, true);
  if (memory == nullptr) return report(cudaErrorInvalidValue);
  std::memset(memory, byte, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* pointer, int byte, std::size_t bytes, cudaStream_t) {
  return cudaMemset(pointer, byte, bytes);
}

// ---- streams and graphs
// ---------------------------------------------------------------------------------------

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  const std::lock_guard alone(Device::instance().mutex);
  *stream = reinterpret_cast<cudaStream_t>(new Stream);
  streams.insert(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return cudaStreamCreate(stream); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::lock_guard alone(Device::instance().mutex);
  if (streams.erase(stream) == 0) return report(cudaErrorInvalidResourceHandle);
  delete stream_of(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const std::lock_guard alone(Device::instance().mutex);
  if (streams.count(stream) == 0) return report(cudaErrorInvalidResourceHandle);
  stream_of(stream)->captures = true;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::lock_guard alone(Device::instance().mutex);
  if (streams.count(stream) == 0) return report(cudaErrorInvalidResourceHandle);
  stream_of(stream)->captures = false;
  *graph = reinterpret_cast<cudaGraph_t>(new Record(std::exchange(stream_of(stream)->record, {})));
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = reinterpret_cast<cudaGraphExec_t>(new Record(*reinterpret_cast<Record*>(graph)));
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<Record*>(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete reinterpret_cast<Record*>(executable);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t) {
  const std::lock_guard alone(Device::instance().mutex);
  for (Recorded& its : *reinterpret_cast<Record*>(executable)) run(*its.program, its.launch);
  return cudaSuccess;
}

}  // extern "C"
