// Which Tiling the kernels of a recurrence get: those of forward, and of each gradient.
//
// Registers come first: a warp's 16 columns of the state take dim_qk / 2 of a lane's, twice that for fp64,
// and nothing may spill (cmake/spill_check.py holds the rows to that). Then shared memory: the longest chunk,
// and two stages where they fit.
#pragma once

#include <concepts>
#include <cstdint>

#include <cottention/kernel/roles.cuh>
#include <cottention/problem.hpp>
#include <cottention/sm80/layout.cuh>
#include <cottention/tiling.hpp>

namespace cottention {

/// The most shared memory that a thread block may ask for. CUDA C++ Programming Guide, "Technical
/// Specifications per Compute Capability": 8.0 has 163 KiB, 9.0 and 10.0 have 227; 8.6, 8.9 and 12.0 have 99.
inline constexpr int shared_bytes_of_large_devices = 163 * 1024;
inline constexpr int shared_bytes_of_all_devices = 99 * 1024;

namespace detail {

/// Shared memory of sm80::Walk, which has the most. An upper bound. `dim` as in Roles::dims.
constexpr int recurrence_shared_bytes(int bytes, HeadDim dim, bool projects, Tiling t, int warps_k) {
  const auto pitch = [bytes](int columns) {
    return sm80::round_up(sm80::round_up(columns, 16) * bytes, 128);
  };
  const int sums = bytes == 8 ? 8 : 4;
  const bool holds_projected = projects && t.columns >= dim.v;
  const int stage = t.chunk * (2 * pitch(sm80::round_up(dim.qk, 16 * warps_k)) +
                               (holds_projected ? 2 : 1) * pitch(t.columns));
  const int norm_backward = holds_projected ? (3 + sm80::round_up(t.columns / 16, 4)) * t.chunk * sums : 0;
  const int partial = warps_k > 1 ? t.warps * sm80::round_up(t.chunk, 16) * 16 * sums : 0;
  return t.stages * stage + t.chunk * pitch(t.chunk) + partial + norm_backward + 3 * t.chunk * sums + 2048;
}

}  // namespace detail

/// The tiling for head dimensions `dim`, within `shared_bytes` where any tiling is.
template <Element T>
constexpr Tiling recurrence_tiling(HeadDim dim, kernel::Output output, int shared_bytes) {
  constexpr int bytes = sizeof(T);
  const int width = sm80::round_up(dim.v, 16);
  // Several warps share columns where one has no room for dim_qk.
  const int warp_depth = bytes == 8 && dim.qk <= 512 ? 64 : 128;
  const int deep = (dim.qk + warp_depth - 1) / warp_depth;
  const int depth = sm80::round_up(dim.qk, 16 * deep);
  // Warps left for columns, 16 each.
  const int across = deep >= 8 ? 1 : 8 / deep;
  const int blocks_of_columns = (width + 16 * across - 1) / (16 * across);
  Tiling t{.chunk = bytes == 2 ? 64 : bytes == 4 ? 32 : 16, .stages = 2};
  t.columns = sm80::round_up((width + blocks_of_columns - 1) / blocks_of_columns, 16);
  t.warps = t.columns / 16 * deep;
  if (std::same_as<T, half> && depth > 64) t.chunk = 48;  // registers: the power of two that it is scaled by
  if (depth > 128 && t.chunk > 32) t.chunk = 32;          // registers
  if (bytes == 2 && depth > 64 && !kernel::rows_are_queries(output))
    t.chunk = 32;                              // registers: out is kept from member to member
  if (bytes == 4 && depth > 64) t.chunk = 16;  // registers
  if (bytes == 4 && depth > 256) t.chunk = 8;  // registers
  if (bytes == 2 && depth <= 64 && t.warps <= 4)
    t.min_blocks_per_sm =
        output == kernel::Output::o ? 3 : 2;  // 168 or 255 registers a lane, as shared memory has room for
  while (detail::recurrence_shared_bytes(bytes, dim, kernel::has_norm_backward(output), t, deep) >
             shared_bytes &&
         (t.stages > 1 || t.chunk > (bytes == 2 ? 16 : 8))) {
    if (t.chunk > 16)
      t.chunk = t.chunk > 32 ? 32 : t.chunk / 2;
    else if (t.stages > 1)
      t.stages = 1;
    else
      t.chunk = 8;
  }
  return t;
}

/// The row for devices with much shared memory, and the one that every device has room for where it has for
/// any.
template <kernel::AnyRoles R>
inline constexpr Tiling tuned_recurrence =
    recurrence_tiling<typename R::element>(R::dims, R::output, shared_bytes_of_large_devices);
template <kernel::AnyRoles R>
inline constexpr Tiling compact_recurrence =
    recurrence_tiling<typename R::element>(R::dims, R::output, shared_bytes_of_all_devices);

/// How many blocks a call has for each multiprocessor: up to one and a half, or more. Few have to be of many
/// warps, or nothing is left to do while a warp waits.
enum class Occupancy { low, high };
constexpr Occupancy occupancy_of(std::int64_t blocks, int multiprocessors) {
  return 2 * blocks <= 3 * std::int64_t{multiprocessors} ? Occupancy::low : Occupancy::high;
}

/// The row for few blocks, where it is another: twice the warps, which take rows of the output apart. They
/// execute more instructions together, but each fewer.
template <kernel::AnyRoles R>
inline constexpr Tiling low_occupancy_recurrence = [] {
  Tiling t = tuned_recurrence<R>;
  const int across = t.columns / 16;
  if (sizeof(typename R::element) == 2 && R::output == kernel::Output::o && R::dims.qk <= 64 &&
      t.warps == across && across <= 4 && sm80::round_up(R::dims.qk, 16) % 32 == 0) {
    t.warps *= 2;
    t.min_blocks_per_sm = std::same_as<typename R::element, half> ? 1 : 2;  // 255 or 128 registers
  }
  return t;
}();

template <AnyProblem P>
inline constexpr Tiling tuned_forward = tuned_recurrence<kernel::Roles<P, kernel::Output::o>>;
template <AnyProblem P>
inline constexpr Tiling compact_forward = compact_recurrence<kernel::Roles<P, kernel::Output::o>>;

/// The row of the kernels that make all gradients together, where there are such. Registers hold two states,
/// which up to dim 64 leave room for three blocks; bidirectional one, and a longer chunk. Few blocks have up
/// to 16 warps there, each with 16 columns and 16 rows of the outputs, or a few such. Seven warps share rows
/// out by divisions, whose results take the registers of a longer chunk.
template <AnyProblem P, Occupancy occupancy>
inline constexpr Tiling fused_backward_tiling = [] {
  const int columns = sm80::round_up(P::head_dim.v, 16), across = columns / 16;
  Tiling t{.chunk = 32, .warps = across, .stages = 2, .columns = columns};
  if (occupancy == Occupancy::low && columns <= 64 && across % 2 == 0) {
    // Half has more to hold: at dim 64 half the warps.
    t.warps = std::same_as<typename P::element, half> && across == 4 ? 8 : across * across;
    t.chunk = columns;
    return t;
  }
  if (columns <= 64) t.min_blocks_per_sm = P::mask == Mask::causal ? 3 : 2;
  if (P::mask == Mask::bidirectional && columns <= 64) t.chunk = 64;
  if (P::mask == Mask::causal && columns == 112) t.chunk = 16;
  return t;
}();

}  // namespace cottention
