// What is computed. A Problem changes the answer; a Tiling (tiling.hpp) changes only the speed.
#pragma once

#include <cottention/requirements.hpp>

#include <concepts>

#include <cottention/element.hpp>
#include <cottention/version.hpp>

namespace cottention {

/// Head dimensions: `qk` of the rows of q and k, `v` of the rows of v and o. They may differ.
struct HeadDim {
  int qk;
  int v;
  friend constexpr bool operator==(HeadDim, HeadDim) = default;
};

/// Head dimensions taken from the arguments at run time.
inline constexpr HeadDim any_head_dim{0, 0};

/// Which keys a query sees: those up to its own position, or all of its sequence.
enum class Mask { causal, bidirectional };

/// What the learned scalar m of a head weighs, by w = max(n, 1)^-sigmoid(m) with n a count of unmasked keys:
/// nothing, each value by the count at its own position, or each output row by the count at its query.
enum class Scale { none, by_key, by_query };

/// One kind of cosine attention, with norm(x) = x / max(||x||, 1e-12):
///
///     o_i = sum over visible j of (norm(q_i) . norm(k_j)) * w * v_j
///
/// `D` fixes the head dimensions at compile time; `any_head_dim` leaves them to the arguments.
template <Element T, HeadDim D, Mask M, Scale S>
struct Problem {
  static_assert((D.qk > 0 && D.v > 0) || D == any_head_dim,
                "cottention: a Problem's head dimensions must both be positive. "
                "Remedy: write HeadDim{dim_qk, dim_v}, or any_head_dim to take them from the arguments.");
  using element = T;
  using accumulate = Accumulate<T>;
  static constexpr HeadDim head_dim = D;
  static constexpr Mask mask = M;
  static constexpr Scale scale = S;
};

template <class P>
inline constexpr bool is_problem = false;
template <Element T, HeadDim D, Mask M, Scale S>
inline constexpr bool is_problem<Problem<T, D, M, S>> = true;

template <class P>
concept AnyProblem = is_problem<P>;

/// norm(x) divides by at least this.
inline constexpr double norm_epsilon = 1e-12;

}  // namespace cottention
