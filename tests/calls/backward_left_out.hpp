// What none of the calls of backward.cpp and backward_dims.cpp launches.
#pragma once

#include <cottention/backward.cuh>

#include "support/left_out.hpp"

namespace support {

/// Problems of which some case is cut into pieces.
template <cottention::AnyProblem P>
inline constexpr bool is_cut =
    P::head_dim == cottention::HeadDim{8, 8} || P::head_dim == cottention::HeadDim{8, 256} ||
    P::head_dim == cottention::HeadDim{256, 8};
/// Problems that the wgmma engine serves wherever it may, and those that only a device without it has in the
/// emulator.
template <cottention::AnyProblem P>
inline constexpr bool is_with_wgmma = P::head_dim == cottention::HeadDim{64, 128} &&
                                      sizeof(typename P::element) == 2;
template <cottention::AnyProblem P>
inline constexpr bool is_without_wgmma =
#if __has_include(<emulation.hpp>)
    P::head_dim == cottention::HeadDim{112, 112};
#else
    false;
#endif
constexpr bool is_of_keys(cottention::recurrence::Output output) {
  return output == cottention::recurrence::Output::dk || output == cottention::recurrence::Output::dv;
}

}  // namespace support

namespace cottention::device {

template <AnyProblem P, recurrence::Output output, Tiling tiling>
constexpr bool is_left_out<sm80::Reduce<kernel::Roles<P, output>, tiling>> = !support::is_cut<P>;
template <AnyProblem P, recurrence::Output output, Tiling tiling>
constexpr bool is_left_out<sm80::Walk<kernel::Roles<P, output>, tiling>> = support::is_with_wgmma<P> ||
                                                                           (support::is_without_wgmma<P> &&
                                                                            support::is_of_keys(output));
template <AnyProblem P, recurrence::Output output, Tiling tiling>
constexpr bool is_left_out<sm80::Apply<kernel::Roles<P, output>, tiling>> =
    support::is_with_wgmma<P> || support::is_without_wgmma<P>;
// Of the wgmma engine one kernel makes dk and dv.
template <AnyProblem P, recurrence::Output output, Tiling tiling>
constexpr bool is_left_out<sm90::Reduce<kernel::Roles<P, output>, tiling>> =
    support::is_without_wgmma<P> ||
    (output != recurrence::Output::o && (P::mask == Mask::causal || output != recurrence::Output::dk));
template <AnyProblem P, recurrence::Output output, Tiling tiling>
constexpr bool is_left_out<sm90::Walk<kernel::Roles<P, output>, tiling>> = support::is_without_wgmma<P> ||
                                                                           support::is_of_keys(output);
template <AnyProblem P, recurrence::Output output, Tiling tiling>
constexpr bool is_left_out<sm90::Apply<kernel::Roles<P, output>, tiling>> = support::is_without_wgmma<P> ||
                                                                            support::is_of_keys(output);
template <AnyProblem P, Tiling tiling>
constexpr bool is_left_out<sm90::KeyGradients<P, tiling>> = support::is_without_wgmma<P>;
template <AnyProblem P, Tiling tiling>
constexpr bool is_left_out<sm90::KeyGradientApply<P, tiling>> = support::is_without_wgmma<P>;

}  // namespace cottention::device
