// Which kernels budget.hpp counts, but for Walk of the mma.sync engine. They are compiled by ptxas for that,
// for sm_90a, and held to registers there as tests/cuda_compile holds others.
#pragma once

#include <concepts>

#include <cottention/element.hpp>
#include <cottention/problem.hpp>
#include <cottention/recurrence.hpp>

namespace budget {

template <cottention::AnyProblem P>
inline constexpr bool is_counted = std::same_as<typename P::element, cottention::bfloat16>&& P::mask ==
                                       cottention::Mask::causal&& P::scale ==
                                       cottention::Scale::by_key&& P::head_dim.qk == P::head_dim.v &&
                                   (P::head_dim.v == 64 || P::head_dim.v == 128);

/// All gradients in one kernel, with every Tiling that the library chooses.
template <cottention::AnyProblem P>
inline constexpr bool has_gradient = is_counted<P>;
/// dk and dv in one kernel.
template <cottention::AnyProblem P>
inline constexpr bool has_key_gradients = is_counted<P>&& P::head_dim.v == 128;
/// Walk of the wgmma engine.
template <cottention::AnyProblem P, cottention::recurrence::Output output>
inline constexpr bool has_walk = is_counted<P> &&
                                 (output == cottention::recurrence::Output::o ||
                                  (output == cottention::recurrence::Output::dq && P::head_dim.v == 128));

}  // namespace budget
