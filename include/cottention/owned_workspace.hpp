// Scratch memory of CPU calls that is allocated as they need it, and the calls with it. An optional header:
// the library itself allocates nothing, and includes it nowhere. owned_workspace.cuh is its like for CUDA.
#pragma once

#include <cottention/requirements.hpp>

#include <cottention/host_only.hpp>

#include <algorithm>
#include <cstddef>
#include <new>
#include <utility>

#include <cottention/cpu.hpp>

namespace cottention {

/// Host memory for the workspaces of calls, aligned to workspace_alignment:
///
///     HostWorkspace workspace;
///     CallStatus status = cpu::forward<P>(arguments, workspace);
///
/// It grows where a call needs more than it has: to what is needed, and at least by half, so that a series of
/// ever larger calls seldom allocates. It becomes smaller by `release` alone. Contents are not kept. Moved
/// from, it is empty. Calls at the same time need one each.
class HostWorkspace {
 public:
  HostWorkspace() = default;
  ~HostWorkspace() { release(); }
  HostWorkspace(HostWorkspace&& other) noexcept : memory_(std::exchange(other.memory_, {})) {}
  HostWorkspace& operator=(HostWorkspace&& other) noexcept {
    std::swap(memory_, other.memory_);
    if (this != &other) other.release();
    return *this;
  }

  /// Makes sure of `bytes`. Where there is no memory for them: bad_workspace, and the workspace is empty.
  [[nodiscard]] CallStatus reserve(std::size_t bytes) {
    if (bytes <= memory_.bytes) return {};
    const std::size_t larger = memory_.bytes + memory_.bytes / 2;
    release();
    if (bytes < larger && allocate(larger)) return {};
    if (allocate(bytes)) return {};
    return CallStatus::failure(StatusCode::bad_workspace, "workspace: there is no memory for %zu bytes",
                               bytes);
  }

  /// Gives the memory back.
  void release() {
    if (memory_.data != nullptr) ::operator delete (memory_.data, std::align_val_t{workspace_alignment});
    memory_ = {};
  }

  std::size_t bytes() const { return memory_.bytes; }
  /// For calls that take a Workspace, until the next `reserve` or `release`.
  Workspace get() const { return memory_; }

 private:
  bool allocate(std::size_t bytes) {
    memory_.data = ::operator new (bytes, std::align_val_t{workspace_alignment}, std::nothrow);
    memory_.bytes = memory_.data != nullptr ? bytes : 0;
    return memory_.data != nullptr;
  }

  Workspace memory_{};
};

namespace cpu::COTTENTION_CPU_TARGET {
namespace detail {

/// Makes room for a call of P that is valid, so that no other makes it grow.
template <AnyProblem P, class Arguments>
CallStatus make_room(const Arguments& args, std::size_t bytes, HostWorkspace& workspace) {
  if (bytes <= workspace.bytes()) return {};
  if (CallStatus status = cottention::validate<P>(args); !status) return status;
  return workspace.reserve(bytes);
}

}  // namespace detail

/// `forward`, `backward` and `step` in memory that grows as they need it. Anything but ok is theirs, or that
/// of HostWorkspace::reserve.
template <AnyProblem P, Tiling tile = tuned_tiling<P>, int vector_bytes = default_vector_bytes>
[[nodiscard]] CallStatus forward(const ForwardArguments<typename P::element>& args, HostWorkspace& workspace,
                                 const Execution& execution = {}) {
  std::size_t bytes = 0;
  if (CallStatus status = workspace_bytes<P, tile>(args, bytes, execution); !status) return status;
  if (CallStatus status = detail::make_room<P>(args, bytes, workspace); !status) return status;
  return forward<P, tile, vector_bytes>(args, workspace.get(), execution);
}

template <AnyProblem P, Tiling tile = tuned_tiling<P>, int vector_bytes = default_vector_bytes>
[[nodiscard]] CallStatus backward(const BackwardArguments<typename P::element>& args,
                                  HostWorkspace& workspace, const Execution& execution = {}) {
  std::size_t bytes = 0;
  if (CallStatus status = workspace_bytes<P, tile>(args, bytes, execution); !status) return status;
  if (CallStatus status = detail::make_room<P>(args, bytes, workspace); !status) return status;
  return backward<P, tile, vector_bytes>(args, workspace.get(), execution);
}

template <AnyProblem P, int vector_bytes = default_vector_bytes>
[[nodiscard]] CallStatus step(const StepArguments<typename P::element>& args, HostWorkspace& workspace,
                              const Execution& execution = {}) {
  std::size_t bytes = 0;
  if (CallStatus status = workspace_bytes<P>(args, bytes, execution); !status) return status;
  if (CallStatus status = detail::make_room<P>(args, bytes, workspace); !status) return status;
  return step<P, vector_bytes>(args, workspace.get(), execution);
}

}  // namespace cpu::COTTENTION_CPU_TARGET
}  // namespace cottention
