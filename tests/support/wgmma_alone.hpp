// For programs whose calls the wgmma engine alone serves: the kernels of the mma.sync engine, which the calls
// choose among too, are left out.
#pragma once

#include <cottention/host/engine.cuh>

#include "support/left_out.hpp"

namespace cottention::device {

template <kernel::AnyRoles R, Tiling tiling>
constexpr bool is_left_out<sm80::Reduce<R, tiling>> = true;
template <kernel::AnyRoles R, Tiling tiling>
constexpr bool is_left_out<sm80::Walk<R, tiling>> = true;
template <kernel::AnyRoles R, Tiling tiling>
constexpr bool is_left_out<sm80::Apply<R, tiling>> = true;
template <kernel::AnyRoles R, Tiling tiling>
constexpr bool is_left_out<sm80::Project<R, tiling>> = true;
template <AnyProblem P, Tiling tiling>
constexpr bool is_left_out<sm80::Gradient<P, tiling>> = true;
template <AnyProblem P, Tiling tiling>
constexpr bool is_left_out<sm80::GradientApply<P, tiling>> = true;

}  // namespace cottention::device
