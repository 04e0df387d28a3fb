// The CUDA calls beside the CPU's, in one source: what `./run compilers` compiles with every CUDA compiler.
#include <cottention/cottention.cuh>
#include <cottention/cpu.hpp>

namespace ct = cottention;
using P = ct::Problem<float, ct::HeadDim{16, 16}, ct::Mask::causal, ct::Scale::by_key>;

ct::CallStatus calls(const ct::ForwardArguments<float>& forward, const ct::StepArguments<float>& step,
                     ct::Workspace workspace, ct::ForwardArguments<float>& on_host) {
  if (const ct::CallStatus status = ct::cpu::forward<P>(on_host, workspace); !status) return status;
  if (const ct::CallStatus status = ct::step<P>(step, workspace, nullptr); !status) return status;
  return ct::forward<P>(forward, workspace, nullptr);
}
