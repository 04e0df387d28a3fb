// The CPU backend's calls as values. Those with head dimensions from the arguments are compiled once for all
// tests, an element type in each of cpu_calls_*.cpp.
#pragma once

#include <cstddef>

#include <cottention/cpu.hpp>

namespace support {

/// One call of the API: bytes of workspace, and the call itself.
template <class Arguments>
struct Call {
  std::size_t (*workspace_bytes)(const Arguments&, const cottention::cpu::Execution&);
  cottention::CallStatus (*run)(const Arguments&, cottention::Workspace, const cottention::cpu::Execution&);
};

template <cottention::Element T>
using ForwardCall = Call<cottention::ForwardArguments<T>>;
template <cottention::Element T>
using BackwardCall = Call<cottention::BackwardArguments<T>>;
template <cottention::Element T>
using StepCall = Call<cottention::StepArguments<T>>;

template <cottention::AnyProblem P, cottention::Tiling tile = cottention::cpu::tuned_tiling<P>>
ForwardCall<typename P::element> forward_of() {
  using namespace cottention;
  return {[](const ForwardArguments<typename P::element>& args, const cpu::Execution& execution) {
            return cpu::workspace_bytes<P, tile>(args, execution);
          },
          [](const ForwardArguments<typename P::element>& args, Workspace workspace,
             const cpu::Execution& execution) { return cpu::forward<P, tile>(args, workspace, execution); }};
}

template <cottention::AnyProblem P, cottention::Tiling tile = cottention::cpu::tuned_tiling<P>>
BackwardCall<typename P::element> backward_of() {
  using namespace cottention;
  return {[](const BackwardArguments<typename P::element>& args, const cpu::Execution& execution) {
            return cpu::workspace_bytes<P, tile>(args, execution);
          },
          [](const BackwardArguments<typename P::element>& args, Workspace workspace,
             const cpu::Execution& execution) { return cpu::backward<P, tile>(args, workspace, execution); }};
}

template <cottention::AnyProblem P>
StepCall<typename P::element> step_of() {
  using namespace cottention;
  return {[](const StepArguments<typename P::element>& args, const cpu::Execution& execution) {
            return cpu::workspace_bytes<P>(args, execution);
          },
          [](const StepArguments<typename P::element>& args, Workspace workspace,
             const cpu::Execution& execution) { return cpu::step<P>(args, workspace, execution); }};
}

template <cottention::Element T>
ForwardCall<T> cpu_forward(cottention::Mask, cottention::Scale);
template <cottention::Element T>
BackwardCall<T> cpu_backward(cottention::Mask, cottention::Scale);
template <cottention::Element T>
StepCall<T> cpu_step(cottention::Scale);

}  // namespace support
