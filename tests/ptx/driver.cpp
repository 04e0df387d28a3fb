// The CUDA driver's calls that examples/nvrtc.cpp makes, for one device that is the PTX machine: a
// libcuda.so.1 that loads PTX alone. Everything is synchronous. A kernel that breaks a rule throws from its
// launch.
#include <cuda.h>

#include <cstring>
#include <memory>
#include <vector>

#include "engine/decode.hpp"
#include "engine/images.hpp"
#include "engine/machine.hpp"

using namespace cottention::ptx;

struct CUmod_st {
  explicit CUmod_st(const char* text) : module(text) {}
  Module module;
};
struct CUfunc_st {
  Program program;
  std::size_t most_dynamic_shared_bytes;
};

namespace {

// They stay until the process ends.
std::vector<std::unique_ptr<CUmod_st>> modules;
std::vector<std::unique_ptr<CUfunc_st>> functions;

std::uint8_t* memory_of(CUdeviceptr pointer, std::size_t bytes) {
  const auto* const its = global_memory().find(pointer, bytes);
  return its == nullptr ? nullptr : its->bytes + (pointer - its->begin);
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int* count) { return *count = 1, CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice* device, int) { return *device = 0, CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) { return *context = nullptr, CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
  *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? 8 : 0;
  return CUDA_SUCCESS;
}
// NVRTC asks for tables that only the real one has.
CUresult cuGetExportTable(const void**, const CUuuid*) { return CUDA_ERROR_NOT_FOUND; }
CUresult cuGetErrorString(CUresult, const char** text) { return *text = "refused", CUDA_SUCCESS; }

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  const auto* const text = static_cast<const char*>(image);
  if (target_of(text) != 80) return CUDA_ERROR_NO_BINARY_FOR_GPU;
  modules.push_back(std::make_unique<CUmod_st>(text));
  *module = modules.back().get();
  return CUDA_SUCCESS;
}
CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  if (!module->module.has_function(name)) return CUDA_ERROR_NOT_FOUND;
  functions.push_back(std::make_unique<CUfunc_st>(CUfunc_st{decode(module->module, name, {}), 48 * 1024}));
  *function = functions.back().get();
  return CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 || value > 163 * 1024)
    return CUDA_ERROR_INVALID_VALUE;
  function->most_dynamic_shared_bytes = static_cast<std::size_t>(value);
  return CUDA_SUCCESS;
}

CUresult cuMemAlloc(CUdeviceptr* pointer, std::size_t bytes) {
  *pointer = global_memory().allocate(bytes);
  return CUDA_SUCCESS;
}
CUresult cuMemcpyHtoD(CUdeviceptr to, const void* from, std::size_t bytes) {
  std::uint8_t* const memory = memory_of(to, bytes);
  if (memory == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::memcpy(memory, from, bytes);
  return CUDA_SUCCESS;
}
CUresult cuMemcpyDtoH(void* to, CUdeviceptr from, std::size_t bytes) {
  const std::uint8_t* const memory = memory_of(from, bytes);
  if (memory == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::memcpy(to, memory, bytes);
  return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                        unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream,
                        void** params, void**) {
  const Program& program = function->program;
  if (shared_bytes > function->most_dynamic_shared_bytes ||
      block_x * block_y * block_z > static_cast<unsigned>(program.max_threads))
    return CUDA_ERROR_INVALID_VALUE;
  Launch launch{{grid_x, grid_y, grid_z},
                {block_x, block_y, block_z},
                shared_bytes,
                std::vector<std::uint8_t>(program.param_bytes)};
  for (std::size_t n = 0; n < program.param_offsets.size(); ++n)
    std::memcpy(launch.params.data() + program.param_offsets[n], params[n], program.param_sizes[n]);
  run(program, launch);
  return CUDA_SUCCESS;
}

}  // extern "C"
#pragma GCC visibility pop
