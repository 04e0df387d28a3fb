// The CPU backend's calls as values. Those with head dimensions from the arguments are compiled once for all
// tests, an element type in each of cpu_calls_*.cpp.
#pragma once

#include <cstddef>

#include <cottention/sequence_parallel.hpp>

#include "support/ranks.hpp"

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

/// The same of a rank that holds a part of the sequences.
template <cottention::Element T, class Arguments>
struct PartCall {
  cottention::CallStatus (*workspace_bytes)(const Arguments&, int ranks, std::size_t& bytes,
                                            const cottention::cpu::Execution&);
  cottention::CallStatus (*run)(const Arguments&, const cottention::SequencePart<T>&, Rank&,
                                cottention::Workspace, const cottention::cpu::Execution&);
};
template <cottention::Element T>
using PartForwardCall = PartCall<T, cottention::ForwardArguments<T>>;
template <cottention::Element T>
using PartBackwardCall = PartCall<T, cottention::BackwardArguments<T>>;

template <cottention::AnyProblem P>
PartForwardCall<typename P::element> part_forward_of() {
  using namespace cottention;
  using T = typename P::element;
  return {
      [](const ForwardArguments<T>& args, int ranks, std::size_t& bytes, const cpu::Execution& execution) {
        return cpu::part_workspace_bytes<P>(args, ranks, bytes, execution);
      },
      [](const ForwardArguments<T>& args, const SequencePart<T>& part, Rank& rank, Workspace workspace,
         const cpu::Execution& execution) {
        return cpu::forward<P>(args, part, rank, workspace, execution);
      }};
}

template <cottention::AnyProblem P>
PartBackwardCall<typename P::element> part_backward_of() {
  using namespace cottention;
  using T = typename P::element;
  return {
      [](const BackwardArguments<T>& args, int ranks, std::size_t& bytes, const cpu::Execution& execution) {
        return cpu::part_workspace_bytes<P>(args, ranks, bytes, execution);
      },
      [](const BackwardArguments<T>& args, const SequencePart<T>& part, Rank& rank, Workspace workspace,
         const cpu::Execution& execution) {
        return cpu::backward<P>(args, part, rank, workspace, execution);
      }};
}

template <cottention::Element T>
ForwardCall<T> cpu_forward(cottention::Mask, cottention::Scale);
template <cottention::Element T>
BackwardCall<T> cpu_backward(cottention::Mask, cottention::Scale);
template <cottention::Element T>
StepCall<T> cpu_step(cottention::Scale);
template <cottention::Element T>
PartForwardCall<T> cpu_part_forward(cottention::Mask, cottention::Scale);
template <cottention::Element T>
PartBackwardCall<T> cpu_part_backward(cottention::Mask, cottention::Scale);

}  // namespace support
