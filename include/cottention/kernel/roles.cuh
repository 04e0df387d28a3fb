// The role table of recurrence.hpp as template values: a kernel over heads computes one output of one
// Problem.
#pragma once

#include <concepts>

#include <cottention/problem.hpp>
#include <cottention/recurrence.hpp>

namespace cottention::kernel {

/// Which side of a recurrence has the weights of positions.
enum class Weighted { nothing, rows, terms };

template <AnyProblem P, recurrence::Output output_>
struct Roles {
  using problem = P;
  using element = typename P::element;
  static constexpr recurrence::Output output = output_;
  static constexpr Mask mask = P::mask;

  static constexpr recurrence::Roles roles = recurrence::roles_of(output);
  /// Whether the output has a row for each query, and sums over keys; otherwise the other way round.
  static constexpr bool rows_are_queries = roles.rows == recurrence::Side::queries;
  static constexpr bool has_norm_backward = roles.norm_backward;
  static constexpr recurrence::Direction direction = recurrence::direction_of(output, mask);
  static constexpr Weighted weighted = P::scale == Scale::none                           ? Weighted::nothing
                                       : (P::scale == Scale::by_key) == rows_are_queries ? Weighted::terms
                                                                                         : Weighted::rows;
  /// Whether g and v get factors that bring their rows to norm 1, too: half's range is narrow.
  static constexpr bool normalizes_all_operands = has_norm_backward && std::same_as<element, half>;

  /// Columns of a and b, and of c and the output, which shape H, (dims.qk, dims.v), and the tiles of every
  /// role.
  static constexpr HeadDim dims = has_norm_backward ? HeadDim{P::head_dim.v, P::head_dim.qk} : P::head_dim;
  using Recurrence = Problem<element, dims, mask, Scale::none>;
};

template <class R>
inline constexpr bool is_roles = false;
template <AnyProblem P, recurrence::Output output>
inline constexpr bool is_roles<Roles<P, output>> = true;

template <class R>
concept AnyRoles = is_roles<R>;

}  // namespace cottention::kernel
