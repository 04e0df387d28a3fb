// What the kernels of this engine are given, and which recurrences they are written for.
#pragma once

#include <concepts>

#include <cottention/device/tma.cuh>
#include <cottention/kernel/params.cuh>
#include <cottention/kernel/roles.cuh>

namespace cottention::sm90 {

/// Tokens that are handled together: M of wgmma, and the rows of a tile.
inline constexpr int chunk_rows = 64;
/// Of these, the rows of one warp.
inline constexpr int warp_rows = 16;
/// Columns of a panel, the widest tile that TMA swizzles by 128 bytes.
inline constexpr int panel_columns = 64;

/// The parameters of a recurrence's kernels. A map has the tensor's dimensions (dim, seq, head, batch),
/// packed or not, and panels (64 columns, 64 rows) as tiles, swizzled by 128 bytes; maps of absent tensors
/// are not used.
template <Element T>
struct RecurrenceParams : kernel::RecurrenceParams<T> {
  device::TensorMap a_map, b_map, c_map, norm_input_map, out_map;
};

/// Whether there are kernels for a recurrence.
template <kernel::AnyRoles R>
inline constexpr bool has_kernels = [] {
  constexpr auto fits = [](int dim) { return dim % 16 == 0 && dim >= 64 && dim <= 128; };
  return sizeof(typename R::element) == 2 && fits(R::dims.qk) && fits(R::dims.v);
}();
/// Whether the first warpgroup lacks the registers for what it seldom uses, which is in shared memory then:
/// beyond 64 columns that of dk, and of dq in half.
template <kernel::AnyRoles R>
inline constexpr bool lacks_registers = R::has_norm_backward&& R::dims.qk > 64 && R::dims.v > 64 &&
                                        (std::same_as<typename R::element, half> || !R::rows_are_queries);

}  // namespace cottention::sm90
