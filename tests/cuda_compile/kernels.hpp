// Compiles the kernels of calls and lists them for cmake/spill_check.py, a line for each:
//
//     mangled name of the type | Problem | Tiling | bytes of shared memory | threads | blocks
#pragma once

#include <cstdio>
#include <typeinfo>
#include <utility>

#include <cottention/backward.cuh>
#include <cottention/dispatch.hpp>
#include <cottention/forward.cuh>
#include <cottention/step.cuh>

namespace cuda_compile {

using namespace cottention;

template <class Kernel>
void list_kernel(const char* problem, const char* tiling) {
  std::printf("%s|%s|%s|%zu|%d|%d\n", typeid(Kernel).name(), problem, tiling,
              sizeof(typename Kernel::Storage), Kernel::threads, Kernel::min_blocks_per_sm);
}

template <AnyProblem P, Tiling t, class Kernel>
void list_kernel() {
  char tiling[100];
  std::snprintf(tiling, sizeof tiling, "chunk %d, warps %d, stages %d, columns %d, blocks %d", t.chunk,
                t.warps, t.stages, t.columns, t.min_blocks_per_sm);
  list_kernel<Kernel>(cottention::detail::ProblemText(runtime_problem<P>).text, tiling);
}

template <kernel::AnyRoles R, Tiling t>
void list_recurrence_tiling() {
  for (const int pieces : {1, 2}) {
    host::SplitPlan plan;
    plan.pieces = pieces;
    host::recurrence_kernels<R, t>(
        plan, [&]<class Kernel>(device::Grid) { list_kernel<typename R::problem, t, Kernel>(); });
  }
}

template <AnyProblem P, kernel::Output output>
void list_recurrence() {
  using R = kernel::Roles<P, output>;
  list_recurrence_tiling<R, tuned_recurrence<R>>();
  if constexpr (compact_recurrence<R> != tuned_recurrence<R>)
    list_recurrence_tiling<R, compact_recurrence<R>>();
  if constexpr (low_occupancy_recurrence<R> != tuned_recurrence<R>)
    list_recurrence_tiling<R, low_occupancy_recurrence<R>>();
}

template <AnyProblem P, Tiling tiling>
void list_fused_backward() {
  if constexpr (P::mask == Mask::causal)
    list_kernel<P, tiling, sm80::Gradient<P, tiling>>();
  else
    list_kernel<P, tiling, sm80::GradientApply<P, tiling>>();
}

/// Keeps a call, so that all of its kernels are compiled.
template <class Call>
void compile(Call call) {
  static volatile Call kept = nullptr;
  kept = call;
}

template <AnyProblem P>
void list_forward() {
  using Call = CallStatus (*)(const ForwardArguments<typename P::element>&, Workspace, cudaStream_t, Split);
  compile<Call>(&forward<P>);
  list_kernel<kernel::Count>("all", "");
  list_kernel<kernel::Trailing<typename P::element, 1>>("all", "");
  list_recurrence<P, kernel::Output::o>();
}

template <AnyProblem P>
void list_backward() {
  using Call = CallStatus (*)(const BackwardArguments<typename P::element>&, Workspace, cudaStream_t, Split);
  compile<Call>(&backward<P>);
  list_kernel<kernel::ScaleGrad<typename P::element>>("all", "");
  list_kernel<kernel::Trailing<typename P::element, 3>>("all", "");
  if constexpr (sm80::has_fused_backward<P>) {
    constexpr Tiling few = fused_backward_tiling<P, Occupancy::low>,
                     many = fused_backward_tiling<P, Occupancy::high>;
    list_fused_backward<P, many>();
    if constexpr (few != many) list_fused_backward<P, few>();
  }
  list_recurrence<P, kernel::Output::dq>();
  list_recurrence<P, kernel::Output::dk>();
  list_recurrence<P, kernel::Output::dv>();
}

template <AnyProblem P>
void list_step() {
  using Call = CallStatus (*)(const StepArguments<typename P::element>&, Workspace, cudaStream_t);
  compile<Call>(&step<P>);
  constexpr tuning::StepTilings tilings = tuning::step_tilings<P>;
  [&]<std::size_t... i>(std::index_sequence<i...>) {
    (list_kernel<P, tilings.list[i], kernel::Step<P, tilings.list[i]>>(), ...);
  }
  (std::make_index_sequence<static_cast<std::size_t>(tilings.count)>());
}

}  // namespace cuda_compile
