// Attention and its gradients as recurrences. With norms and weights folded into its operands, every output
// is one recurrence over rows i and terms j, where g is the gradient with respect to o:
//
//     out_i = a_i H + sum over visible j of (a_i . b_j) c_j          H = sum of b_j c_j^T
//
//     output   a   b   c   rows      causal order   epilogue on row i
//     o        q   k   v   queries   forward        * w_i when scaling by query
//     dq       g   v   k   queries   forward        backward of the norm of q
//     dk       v   g   q   keys      reverse        backward of the norm of k
//     dv       k   q   g   keys      reverse        * w_j when scaling by key
//
// q and k are normalised as every operand; v is multiplied by w_j when scaling by key, g by w_i when scaling
// by query. The functions are plain C++ for constant expressions: kernels keep their values in static
// constexpr members, since nvcc refuses calls of them in device functions.
#pragma once

#include <cottention/requirements.hpp>

#include <cstdint>

#include <cottention/problem.hpp>

namespace cottention::recurrence {

enum class Output { o, dq, dk, dv };
/// The tensors that operands are made of; g is `dout`.
enum class Input { q, k, v, g };
enum class Side { queries, keys };
/// The order in which a causal recurrence goes through a sequence.
enum class Direction { forward, reverse };
/// A state as (dim_qk, dim_v), as calls keep it, or as (dim_v, dim_qk): the same state with b and c
/// exchanged.
enum class StateLayout { as_is, transposed };

/// One row of the table.
struct Roles {
  Input a, b, c;
  Side rows;            ///< the side of a and of the output; b and c are on the other one
  Direction direction;  ///< when causal
  Scale weighted_by;    ///< the scaling under which the output is multiplied by its row's weight
  bool norm_backward;   ///< whether the epilogue is the backward of the norm of norm_input(output)
};

inline constexpr Roles table[] = {
    {Input::q, Input::k, Input::v, Side::queries, Direction::forward, Scale::by_query, false},  // o
    {Input::g, Input::v, Input::k, Side::queries, Direction::forward, Scale::none, true},       // dq
    {Input::v, Input::g, Input::q, Side::keys, Direction::reverse, Scale::none, true},          // dk
    {Input::k, Input::q, Input::g, Side::keys, Direction::reverse, Scale::by_key, false},       // dv
};
constexpr Roles roles_of(Output output) { return table[static_cast<int>(output)]; }

constexpr Side side_of(Input input) {
  return input == Input::q || input == Input::g ? Side::queries : Side::keys;
}
constexpr Side other(Side side) { return side == Side::queries ? Side::keys : Side::queries; }

/// Whether rows are of dim_qk elements, and normalised; those of v and g are of dim_v.
constexpr bool is_normalized(Input input) { return input == Input::q || input == Input::k; }
/// Whether rows are of dim_qk elements: those of dq and dk.
constexpr bool has_dim_qk(Output output) { return roles_of(output).norm_backward; }
/// The x of the norm whose backward makes dq or dk.
constexpr Input norm_input(Output output) { return output == Output::dq ? Input::q : Input::k; }

/// Whether the rows of an input are multiplied by their weights under this scaling.
constexpr bool is_weighted(Input input, Scale scale) {
  return input == Input::v ? scale == Scale::by_key : input == Input::g && scale == Scale::by_query;
}

constexpr Direction direction_of(Output output, Mask mask) {
  return mask == Mask::causal ? roles_of(output).direction : Direction::forward;
}

/// The state of dq and dk, whose b and c are v and k or g and q, is that of the call transposed.
constexpr StateLayout state_layout(Output output) {
  return roles_of(output).norm_backward ? StateLayout::transposed : StateLayout::as_is;
}

/// How a sequence is split into pieces that are summed apart.
struct SplitRule {
  int wanted = 1;      ///< pieces
  int min_rows = 0;    ///< of a piece
  int max_rows = 0;    ///< of a piece, as far as max_pieces allows; 0: any number
  int max_pieces = 1;  ///< at least 1
};

/// Rows of a piece, all but the last: a multiple of `chunk`, at least one chunk. `length` rows are split into
/// as many pieces as are wanted and as max_rows asks for, at most max_pieces, none but the last shorter than
/// min_rows.
constexpr std::int64_t piece_rows(std::int64_t length, const SplitRule& rule, std::int64_t chunk) {
  std::int64_t pieces = rule.wanted;
  if (rule.max_rows > 0 && (length - 1) / rule.max_rows >= pieces) pieces = (length - 1) / rule.max_rows + 1;
  if (pieces > rule.max_pieces) pieces = rule.max_pieces;
  std::int64_t rows = (length + pieces - 1) / pieces;
  if (pieces > 1 && rows < rule.min_rows) rows = rule.min_rows;
  return rows <= chunk ? chunk : (rows + chunk - 1) / chunk * chunk;
}

}  // namespace cottention::recurrence
