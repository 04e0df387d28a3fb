// Every call and what is asked about it, for tests/checks/host_code_check.py.
#include <cottention/cottention.cuh>
#include <cottention/owned_workspace.cuh>

using namespace cottention;

template <class T>
int calls(const ForwardArguments<T>& of_forward, const BackwardArguments<T>& of_backward,
          const StepArguments<T>& of_step, DeviceWorkspace& workspace, cudaStream_t stream) {
  using Causal = Problem<T, HeadDim{64, 64}, Mask::causal, Scale::by_key>;
  using Bidirectional = Problem<T, HeadDim{64, 80}, Mask::bidirectional, Scale::by_query>;
  return forward<Causal>(of_forward, workspace, stream).ok() +
         backward<Causal>(of_backward, workspace, stream).ok() +
         backward<Bidirectional>(of_backward, workspace, stream).ok() +
         step<Causal>(of_step, workspace, stream).ok() + choice<Causal>(of_forward).launches +
         choice<Causal>(of_backward).launches + choice<Causal>(of_step).launches;
}

int main() {
  const ForwardArguments<bfloat16> of_forward;
  const BackwardArguments<bfloat16> of_backward;
  const StepArguments<bfloat16> of_step;
  DeviceWorkspace workspace;
  return calls(of_forward, of_backward, of_step, workspace, nullptr);
}
