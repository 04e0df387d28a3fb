// `step` on the device, or in the emulator, as values. Compiled once for all tests, an element type in each
// of cuda_step_*.cpp.
#pragma once

#include <vector>

#include <cottention/arguments.hpp>
#include <cottention/dispatch.hpp>

#include <cuda_runtime.h>

#include "support/mirror.hpp"
#include "support/step_cases.hpp"

namespace support {

template <cottention::Element T>
using CudaStepCall = cottention::CallStatus (*)(const cottention::StepArguments<T>&, cottention::Workspace,
                                                cudaStream_t);

/// The calls for one Problem.
template <cottention::Element T>
struct CudaStep {
  std::size_t (*workspace_bytes)(const cottention::StepArguments<T>&);
  CudaStepCall<T> automatic;
  std::vector<CudaStepCall<T>> tilings;  ///< each of the tuned ones
};

/// Head dims by which the kernel cuts a state up in different ways: powers of two and not, halves of warps,
/// several blocks of columns, the last of them narrower, 8 rows a thread and 16.
using CudaStepDims =
    cottention::HeadDims<cottention::HeadDim{8, 8}, cottention::HeadDim{24, 40}, cottention::HeadDim{40, 24},
                         cottention::HeadDim{64, 64}, cottention::HeadDim{72, 40},
                         cottention::HeadDim{128, 128}, cottention::HeadDim{16, 256},
                         cottention::HeadDim{256, 24}, cottention::HeadDim{512, 24},
                         cottention::HeadDim{1024, 8}, cottention::HeadDim{8, 1024}>;
inline constexpr std::int64_t cuda_step_dims[][2] = {{8, 8},    {24, 40},   {40, 24},  {64, 64},
                                                     {72, 40},  {128, 128}, {16, 256}, {256, 24},
                                                     {512, 24}, {1024, 8},  {8, 1024}};

/// Scale::by_key for all of CudaStepDims; the other scales for 24 x 40, one warp, and 64 x 64, four.
template <cottention::Element T>
CudaStep<T> cuda_step(std::int64_t dim_qk, std::int64_t dim_v, cottention::Scale scale);

/// Makes steps on copies of the arguments in device memory.
template <cottention::Element T>
Stepper<T> device_stepper(CudaStepCall<T> call,
                          std::size_t (*workspace_bytes)(const cottention::StepArguments<T>&) = nullptr) {
  return [call, workspace_bytes](const cottention::StepArguments<T>& args) {
    Mirror mirror;
    const cottention::StepArguments<T> device_args = mirror.step(args);
    if (workspace_bytes != nullptr) CHECK(workspace_bytes(device_args) == 0);
    const cottention::CallStatus status = call(device_args, {}, nullptr);
    INFO(status.reason);
    REQUIRE(status.ok());
    mirror.download();
  };
}
template <cottention::Element T>
Stepper<T> device_stepper(const CudaStep<T>& step) {
  return device_stepper<T>(step.automatic, step.workspace_bytes);
}

}  // namespace support
