// Every header of plain C++ behind common macros, and calls with the macros still there. Compiled, not run.
#include <immintrin.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <memory>
#include <mutex>
#include <sstream>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "requirements/macros.hpp"

#include <cottention/cpu.hpp>
#include <cottention/dispatch.hpp>
#include <cottention/owned_workspace.hpp>
#include <cottention/reference.hpp>
#include <cottention/sequence_parallel.hpp>

namespace ct = cottention;
using P = ct::Problem<ct::half, ct::any_head_dim, ct::Mask::causal, ct::Scale::by_query>;
using Q = ct::Problem<ct::half, ct::HeadDim{16, 16}, ct::Mask::bidirectional, ct::Scale::none>;

ct::CallStatus calls(const ct::ForwardArguments<ct::half>& forward,
                     const ct::BackwardArguments<ct::half>& backward, const ct::StepArguments<ct::half>& step,
                     ct::Workspace workspace) {
  if (ct::cpu::workspace_bytes<P>(forward) + ct::cpu::workspace_bytes<P>(backward) +
          ct::cpu::workspace_bytes<P>(step) >
      9)
    return ct::cpu::step<P>(step, workspace);
  if (ct::reference::forward<Q>(forward).o.empty() || ct::reference::backward<Q>(backward).dq.empty())
    return {};
  if (!ct::cpu::forward<Q>(forward, workspace)) return ct::cpu::backward<P>(backward, workspace);
  return {};
}
