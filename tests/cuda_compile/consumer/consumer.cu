// The CPU's calls beside those of CUDA, as in a program that checks itself.
#include <cottention/cpu.hpp>
#include <cottention/step.cuh>

using namespace cottention;
using P = Problem<float, HeadDim{16, 16}, Mask::causal, Scale::by_key>;

// 16-bit elements, which nvcc's front end converts one by one.
template <Element T>
using OnCpu = Problem<T, any_head_dim, Mask::causal, Scale::by_key>;

int main() {
  const CallStatus status =
      step<P>(StepArguments<float>{}, {}, nullptr);  // refused before any device is asked
  const CallStatus on_cpu = cpu::step<P>(StepArguments<float>{}, {});
  const CallStatus of_half = cpu::step<OnCpu<half>>(StepArguments<half>{}, {});
  const CallStatus of_bfloat16 = cpu::step<OnCpu<bfloat16>>(StepArguments<bfloat16>{}, {});
  for (const CallStatus& refused : {status, on_cpu, of_half, of_bfloat16})
    if (refused.code != StatusCode::bad_shape) return 1;
  return 0;
}
