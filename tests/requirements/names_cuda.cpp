// Every CUDA header in the emulator behind common macros, and calls with the macros still there. The
// emulator's own come first.
#include <cuda_runtime.h>
#include <emulation.hpp>

#include <cottention/device/async_copy.cuh>
#include <cottention/device/barrier.cuh>
#include <cottention/device/collective.cuh>
#include <cottention/device/convert.cuh>
#include <cottention/device/entry.cuh>
#include <cottention/device/math.cuh>
#include <cottention/device/matrix.cuh>
#include <cottention/device/mbarrier.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/mma.cuh>
#include <cottention/device/registers.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/device/tma.cuh>
#include <cottention/device/warp.cuh>
#include <cottention/device/wgmma.cuh>

#include <algorithm>
#include <array>
#include <atomic>
#include <concepts>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <sstream>
#include <typeinfo>
#include <utility>

#include "requirements/macros.hpp"

#include <cottention/cottention.cuh>
#include <cottention/owned_workspace.cuh>

namespace ct = cottention;
using P = ct::Problem<ct::half, ct::HeadDim{32, 32}, ct::Mask::causal, ct::Scale::by_key>;

ct::CallStatus calls(const ct::ForwardArguments<ct::half>& forward,
                     const ct::BackwardArguments<ct::half>& backward, const ct::StepArguments<ct::half>& step,
                     ct::Workspace workspace) {
  if (ct::workspace_bytes<P>(forward) + ct::workspace_bytes<P>(backward) > 9)
    return ct::step<P>(step, workspace, nullptr);
  if (!ct::forward<P>(forward, workspace, nullptr)) return ct::backward<P>(backward, workspace, nullptr);
  return {};
}
