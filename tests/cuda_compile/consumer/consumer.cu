// The CPU's calls beside those of CUDA, as in a program that checks itself.
#include <cottention/cpu.hpp>
#include <cottention/step.cuh>

using namespace cottention;
using P = Problem<float, HeadDim{16, 16}, Mask::causal, Scale::by_key>;

int main() {
  const CallStatus status =
      step<P>(StepArguments<float>{}, {}, nullptr);  // refused before any device is asked
  const CallStatus on_cpu = cpu::step<P>(StepArguments<float>{}, {});
  return status.code == StatusCode::bad_shape && on_cpu.code == StatusCode::bad_shape ? 0 : 1;
}
