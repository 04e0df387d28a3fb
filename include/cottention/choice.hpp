// What a CUDA call will run, as values: which kernels, how they are cut, and how much scratch memory they
// take.
#pragma once

#include <cottention/requirements.hpp>

#include <cstddef>

#include <cottention/tiling.hpp>

namespace cottention {

/// The kernels over heads for one output: o, dq, dk or dv.
struct RecurrenceChoice {
  Tiling tiling{};  ///< its engine included; chunk 0: none of them is launched
  int pieces = 0;   ///< that a sequence is cut into at most; 1: none is cut; 0: nothing is launched
};

/// What `forward` will run.
struct ForwardChoice {
  RecurrenceChoice o{};
  int launches = 0;                 ///< kernels, those over heads and all others
  std::size_t workspace_bytes = 0;  ///< as workspace_bytes says
};

/// What `backward` will run.
struct BackwardChoice {
  bool fused = false;     ///< whether one kernel makes dq, dk and dv
  Tiling fused_tiling{};  ///< its own; chunk 0: there is none
  int fused_pieces = 0;   ///< that it cuts a sequence into at most; 0: there is none
  RecurrenceChoice dq{};  ///< beside a causal fused kernel: those for the pieces of heads whose dq it leaves
  RecurrenceChoice dk{};
  RecurrenceChoice dv{};
  RecurrenceChoice dk_dv{};  ///< one kernel for both, beside which dk and dv have none
  int launches = 0;
  std::size_t workspace_bytes = 0;
};

/// What `step` will run.
struct StepChoice {
  Tiling tiling{};  ///< chunk 0: nothing is launched
  int launches = 0;
  std::size_t workspace_bytes = 0;  ///< always 0
};

}  // namespace cottention
