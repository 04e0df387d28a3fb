// The role table: which tensors are a, b and c. With norms and weights folded into its operands, every output
// of attention and of its gradient is one recurrence over rows i and terms j, where g is the gradient with
// respect to o:
//
//     out_i = a_i H + sum over visible j of (a_i . b_j) c_j          H = sum of b_j c_j^T
//
//     output   a   b   c   rows      causal order   then
//     o        q   k   v   queries   forward
//     dq       g   v   k   queries   forward        through the norm of q
//     dk       v   g   q   keys      reverse        through the norm of k
//     dv       k   q   g   keys      reverse
//
// q and k are normalised in every role. Scaled by key, v has the weight of its position, and dv is multiplied
// by it; scaled by query, g has the weight, and o is multiplied by it.
#pragma once

#include <concepts>

#include <cottention/problem.hpp>
#include <cottention/tile/cursor.cuh>

namespace cottention::kernel {

enum class Output { o, dq, dk, dv };

/// Whether an output has a row for each query, and sums over keys; otherwise the other way round.
constexpr bool rows_are_queries(Output output) { return output == Output::o || output == Output::dq; }
/// Whether the output goes backward through the norm of q or k.
constexpr bool has_norm_backward(Output output) { return output == Output::dq || output == Output::dk; }

/// Which side of a recurrence has the weights of positions.
enum class Weighted { nothing, rows, terms };

template <AnyProblem P, Output output_>
struct Roles {
  using problem = P;
  using element = typename P::element;
  static constexpr Output output = output_;
  static constexpr Mask mask = P::mask;

  static constexpr bool rows_are_queries = kernel::rows_are_queries(output);
  static constexpr bool has_norm_backward = kernel::has_norm_backward(output);
  static constexpr tile::Direction direction =
      mask == Mask::causal && !rows_are_queries ? tile::Direction::reverse : tile::Direction::forward;
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
template <AnyProblem P, Output output>
inline constexpr bool is_roles<Roles<P, output>> = true;

template <class R>
concept AnyRoles = is_roles<R>;

}  // namespace cottention::kernel
