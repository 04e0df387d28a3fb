// Which kernels budget.hpp counts that tests/cuda_compile goes without. They are compiled by ptxas for that,
// for sm_90a, and held to registers there as tests/cuda_compile holds others.
#pragma once

#include <concepts>

#include <cottention/element.hpp>
#include <cottention/problem.hpp>
#include <cottention/recurrence.hpp>

namespace budget {

template <cottention::AnyProblem P, int dim, class... Elements>
inline constexpr bool is_counted =
    (std::same_as<typename P::element, Elements> || ...) && P::mask == cottention::Mask::causal&& P::scale
                                                                == cottention::Scale::by_key&& P::head_dim.qk
                                                                == dim&& P::head_dim.v == dim;

/// All gradients in one kernel, with every Tiling that the library chooses.
template <cottention::AnyProblem P>
inline constexpr bool has_gradient =
    is_counted<P, 64, cottention::bfloat16> || is_counted<P, 128, cottention::bfloat16>;
/// dk and dv in one kernel.
template <cottention::AnyProblem P>
inline constexpr bool has_key_gradients = is_counted<P, 128, cottention::bfloat16, cottention::half>;
/// Walk of the wgmma engine.
template <cottention::AnyProblem P, cottention::recurrence::Output output>
inline constexpr bool has_walk =
    (output == cottention::recurrence::Output::o && is_counted<P, 64, cottention::bfloat16>) ||
    ((output == cottention::recurrence::Output::o || output == cottention::recurrence::Output::dq) &&
     is_counted<P, 128, cottention::bfloat16, cottention::half>);

}  // namespace budget
