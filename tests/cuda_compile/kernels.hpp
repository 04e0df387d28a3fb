// Compiles the kernels of calls and lists them for tests/checks/spill_check.py, a line for each; most Reduce
// of gradients, and most kernels that tests/kernel/budget.hpp counts, only with COTTENTION_TEST_WIDE:
//
//     mangled name of the type | Problem | Tiling | bytes of shared memory | threads | blocks
#pragma once

#include <cstddef>
#include <cstdio>
#include <typeinfo>

#include <cottention/backward.cuh>
#include <cottention/dispatch.hpp>
#include <cottention/forward.cuh>
#include <cottention/kernel/sum.cuh>
#include <cottention/step.cuh>

#include "../kernel/budget_kernels.hpp"
#include "../support/left_out.hpp"

#ifndef COTTENTION_TEST_WIDE
// Reduce has the state and no scores, so it takes fewer registers than the kernels that go on from there. Of
// the wgmma engine that of dk goes before kernels that make several gradients.
template <cottention::AnyProblem P, cottention::recurrence::Output output, cottention::Tiling tiling>
constexpr bool
    cottention::device::is_left_out<cottention::sm80::Reduce<cottention::kernel::Roles<P, output>, tiling>> =
        output != cottention::recurrence::Output::o;
template <cottention::AnyProblem P, cottention::recurrence::Output output, cottention::Tiling tiling>
constexpr bool
    cottention::device::is_left_out<cottention::sm90::Reduce<cottention::kernel::Roles<P, output>, tiling>> =
        output == cottention::recurrence::Output::dq || output == cottention::recurrence::Output::dv;
// What tests/checks/budget_check.py has compiled for sm_90a, and holds to registers.
template <cottention::AnyProblem P, cottention::Tiling tiling>
constexpr bool cottention::device::is_left_out<cottention::sm80::Gradient<P, tiling>> =
    budget::has_gradient<P>;
template <cottention::AnyProblem P, cottention::Tiling tiling>
constexpr bool cottention::device::is_left_out<cottention::sm90::Gradient<P, tiling>> =
    budget::has_gradient<P>;
template <cottention::AnyProblem P, cottention::Tiling tiling>
constexpr bool cottention::device::is_left_out<cottention::sm90::KeyGradients<P, tiling>> =
    budget::has_key_gradients<P>;
template <cottention::AnyProblem P, cottention::recurrence::Output output, cottention::Tiling tiling>
constexpr bool
    cottention::device::is_left_out<cottention::sm90::Walk<cottention::kernel::Roles<P, output>, tiling>> =
        budget::has_walk<P, output>;
#endif

namespace cuda_compile {

using namespace cottention;

template <class Kernel>
void list_kernel(const char* problem, const char* tiling) {
  std::printf("%s|%s|%s|%zu|%d|%d\n", typeid(Kernel).name(), problem, tiling,
              sizeof(typename Kernel::Storage), Kernel::threads, Kernel::min_blocks_per_sm);
}

template <AnyProblem P, Tiling t, class Kernel>
void list_kernel() {
  if (device::is_left_out<Kernel>) return;
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

/// Calls f with each row of a table.
template <class Rows, std::size_t row = 0, class F>
void for_each_row(F f) {
  if constexpr (row < Rows::table.count) {
    f.template operator()<Rows::table.list[row]>();
    for_each_row<Rows, row + 1>(f);
  }
}

template <AnyProblem P, recurrence::Output output>
void list_recurrence() {
  using R = kernel::Roles<P, output>;
  for_each_row<host::RecurrenceRows<R>>([&]<Tiling t>() { list_recurrence_tiling<R, t>(); });
}

/// Keeps a call, so that all of its kernels are compiled.
template <class Call>
void compile(Call call) {
  static volatile Call kept = nullptr;
  kept = call;
}

/// Walk of an output on the wgmma engine, without the rest of its call.
template <AnyProblem P, recurrence::Output output>
void list_wgmma_walk() {
  using R = kernel::Roles<P, output>;
  constexpr Tiling t = tuning::wgmma_recurrence<R>;
  compile<cudaError_t (*)()>(&device::prepare<host::Walk<R, t>>);
  list_kernel<P, t, host::Walk<R, t>>();
}

template <AnyProblem P, Tiling t>
void list_key_gradients_tiling() {
  using Kernel = typename host::KeyGradientTilings<P>::template Kernel<t>;
  compile<cudaError_t (*)()>(&device::prepare<Kernel>);
  list_kernel<P, t, Kernel>();
}

/// The kernel that makes dk and dv, likewise.
template <AnyProblem P>
void list_key_gradients() {
  for_each_row<host::KeyGradientTilings<P>>([&]<Tiling t>() { list_key_gradients_tiling<P, t>(); });
}

template <AnyProblem P>
void list_forward() {
  using Call = CallStatus (*)(const ForwardArguments<typename P::element>&, Workspace, cudaStream_t, Split);
  compile<Call>(&forward<P>);
  list_kernel<kernel::Count>("all", "");
  list_kernel<kernel::Trailing<typename P::element, 1>>("all", "");
  using Sum = kernel::ArraySum<Accumulate<typename P::element>>;  // of calls on parts
  compile<cudaError_t (*)()>(&device::prepare<Sum>);
  list_kernel<Sum>("all", "");
  list_recurrence<P, recurrence::Output::o>();
}

/// The kernels of the wgmma engine alone.
template <AnyProblem P>
void list_wgmma_forward() {
  using R = kernel::Roles<P, recurrence::Output::o>;
  using Call = CallStatus (*)(const ForwardArguments<typename P::element>&, Workspace, cudaStream_t, Split);
  compile<Call>(&forward<P, tuning::wgmma_recurrence<R>>);
  list_kernel<kernel::Count>("all", "");
  list_kernel<kernel::Trailing<typename P::element, 1>>("all", "");
  list_recurrence_tiling<R, tuning::wgmma_recurrence<R>>();
}

/// The sum of S that gradients made together start from.
template <AnyProblem P>
void list_sum_of_pieces() {
  using Pieces = host::PieceStates<P>;
  constexpr Tiling t = Pieces::tiling_of_s;
  list_kernel<P, t, host::Reduce<typename Pieces::OfS, t>>();
}

template <AnyProblem P>
void list_backward() {
  using Call = CallStatus (*)(const BackwardArguments<typename P::element>&, Workspace, cudaStream_t, Split);
  compile<Call>(&backward<P>);
  list_kernel<kernel::ScaleGrad<typename P::element>>("all", "");
  list_kernel<kernel::Trailing<typename P::element, 3>>("all", "");
  using Fused = host::FusedBackwardTilings<P>;
  for_each_row<Fused>([&]<Tiling t>() { list_kernel<P, t, typename Fused::template Kernel<t>>(); });
  using Keys = host::KeyGradientTilings<P>;
  for_each_row<Keys>([&]<Tiling t>() { list_kernel<P, t, typename Keys::template Kernel<t>>(); });
  if constexpr (Fused::has_wgmma) list_sum_of_pieces<P>();
  list_recurrence<P, recurrence::Output::dq>();
  list_recurrence<P, recurrence::Output::dk>();
  list_recurrence<P, recurrence::Output::dv>();
}

template <AnyProblem P>
void list_step() {
  using Call = CallStatus (*)(const StepArguments<typename P::element>&, Workspace, cudaStream_t);
  compile<Call>(&step<P>);
  for_each_row<host::StepRows<P>>([&]<Tiling t>() { list_kernel<P, t, kernel::Step<P, t>>(); });
}

}  // namespace cuda_compile
