#include <cottention/step.cuh>

using namespace cottention;
using P = Problem<float, HeadDim{16, 16}, Mask::causal, Scale::by_key>;

int main() {
  const CallStatus status =
      step<P>(StepArguments<float>{}, {}, nullptr);  // refused before any device is asked
  return status.code == StatusCode::bad_shape ? 0 : 1;
}
