// The kernels of a Tiling's engine. Elsewhere the host names kernels by these aliases.
//
// An engine is a set of kernels with Params, Storage, threads, min_blocks_per_sm and run. What a kernel
// leaves in memory for another of the same call, a partial state, is its engine's own, so all kernels over
// the heads of one output have one Tiling.
#pragma once

#include <cstdint>

#include <cottention/kernel/roles.cuh>
#include <cottention/problem.hpp>
#include <cottention/sm80/apply.cuh>
#include <cottention/sm80/gradient.cuh>
#include <cottention/sm80/gradient_apply.cuh>
#include <cottention/sm80/project.cuh>
#include <cottention/sm80/reduce.cuh>
#include <cottention/sm80/walk.cuh>
#include <cottention/sm90/apply.cuh>
#include <cottention/sm90/gradient.cuh>
#include <cottention/sm90/key_gradient_apply.cuh>
#include <cottention/sm90/key_gradients.cuh>
#include <cottention/sm90/reduce.cuh>
#include <cottention/sm90/walk.cuh>
#include <cottention/tiling.hpp>

namespace cottention::host {

/// Declared for the engines that have kernels; require_device_tiling (validation.hpp) refuses any other.
template <Engine engine>
struct EngineKernels;

template <>
struct EngineKernels<Engine::mma_sync> {
  template <kernel::AnyRoles R, Tiling tiling>
  using Reduce = sm80::Reduce<R, tiling>;
  template <kernel::AnyRoles R, Tiling tiling>
  using Walk = sm80::Walk<R, tiling>;
  template <kernel::AnyRoles R, Tiling tiling>
  using Apply = sm80::Apply<R, tiling>;
  template <kernel::AnyRoles R, Tiling tiling>
  using Project = sm80::Project<R, tiling>;
  template <AnyProblem P, Tiling tiling>
  using Gradient = sm80::Gradient<P, tiling>;
  template <AnyProblem P, Tiling tiling>
  using GradientApply = sm80::GradientApply<P, tiling>;

  /// Elements of a block's state as Reduce and Walk keep it in memory.
  template <kernel::AnyRoles R, Tiling tiling>
  static constexpr std::int64_t partial_elements = sm80::StateOf<R, tiling>::partial_elements;
  /// Whether the kernel that makes dq or dk takes it through the norm itself; otherwise Project does.
  template <kernel::AnyRoles R, Tiling tiling>
  static constexpr bool fuses_norm_backward = sm80::fuses_norm_backward<R, tiling>;
};

/// Its kernels have all columns of a head.
template <>
struct EngineKernels<Engine::wgmma> {
  template <kernel::AnyRoles R, Tiling tiling>
  using Reduce = sm90::Reduce<R, tiling>;
  template <kernel::AnyRoles R, Tiling tiling>
  using Walk = sm90::Walk<R, tiling>;
  template <kernel::AnyRoles R, Tiling tiling>
  using Apply = sm90::Apply<R, tiling>;
  template <AnyProblem P, Tiling tiling>
  using Gradient = sm90::Gradient<P, tiling>;
  template <AnyProblem P, Tiling tiling>
  using KeyGradients = sm90::KeyGradients<P, tiling>;
  template <AnyProblem P, Tiling tiling>
  using KeyGradientApply = sm90::KeyGradientApply<P, tiling>;

  template <kernel::AnyRoles R, Tiling tiling>
  static constexpr std::int64_t partial_elements = sm90::StateOf<R>::partial_elements;
  template <kernel::AnyRoles R, Tiling tiling>
  static constexpr bool fuses_norm_backward = true;
};

template <kernel::AnyRoles R, Tiling tiling>
using Reduce = typename EngineKernels<tiling.engine>::template Reduce<R, tiling>;
template <kernel::AnyRoles R, Tiling tiling>
using Walk = typename EngineKernels<tiling.engine>::template Walk<R, tiling>;
template <kernel::AnyRoles R, Tiling tiling>
using Apply = typename EngineKernels<tiling.engine>::template Apply<R, tiling>;
template <kernel::AnyRoles R, Tiling tiling>
using Project = typename EngineKernels<tiling.engine>::template Project<R, tiling>;
template <AnyProblem P, Tiling tiling>
using Gradient = typename EngineKernels<tiling.engine>::template Gradient<P, tiling>;
template <AnyProblem P, Tiling tiling>
using GradientApply = typename EngineKernels<tiling.engine>::template GradientApply<P, tiling>;
template <AnyProblem P, Tiling tiling>
using KeyGradients = typename EngineKernels<tiling.engine>::template KeyGradients<P, tiling>;
template <AnyProblem P, Tiling tiling>
using KeyGradientApply = typename EngineKernels<tiling.engine>::template KeyGradientApply<P, tiling>;

template <kernel::AnyRoles R, Tiling tiling>
inline constexpr std::int64_t partial_elements =
    EngineKernels<tiling.engine>::template partial_elements<R, tiling>;
template <kernel::AnyRoles R, Tiling tiling>
inline constexpr bool has_project =
    R::has_norm_backward && !EngineKernels<tiling.engine>::template fuses_norm_backward<R, tiling>;

}  // namespace cottention::host
