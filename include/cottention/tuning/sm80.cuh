// Which Tiling the kernels of the mma.sync engine get: those of forward, and of each gradient.
//
// Registers come first: a warp's 16 columns of the state take dim_qk / 2 of a lane's, twice that for fp64,
// and nothing may spill (tests/checks/spill_check.py holds the rows to that). Then shared memory: the longest
// chunk, and two stages where they fit. No row has been timed on a GPU: "unmeasured" stands where nothing is
// counted either. Registers are those of the causal walk for sm_90a, instructions those of PTX for a chunk
// against the clocks that memory leaves for it; docs/tuning.md has both, and bench/results the files.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>

#include <cottention/kernel/roles.cuh>
#include <cottention/problem.hpp>
#include <cottention/sm80/fused_backward.cuh>
#include <cottention/sm80/walk.cuh>
#include <cottention/tiling.hpp>
#include <cottention/tuning/table.hpp>

namespace cottention::tuning {

/// The most shared memory that a thread block may ask for. CUDA C++ Programming Guide, "Technical
/// Specifications per Compute Capability": 8.0 has 163 KiB, 9.0 and 10.0 have 227; 8.6, 8.9 and 12.0 have 99.
inline constexpr int shared_bytes_of_large_devices = 163 * 1024;
inline constexpr int shared_bytes_of_all_devices = 99 * 1024;

/// How many blocks a call has for each multiprocessor: up to one and a half, or more. Few blocks have to be
/// of many warps, or nothing is left to do while a warp waits. Where the boundary lies is unmeasured.
enum class Occupancy { low, high };
constexpr Occupancy occupancy_of(std::int64_t blocks, int multiprocessors) {
  return 2 * blocks <= 3 * std::int64_t{multiprocessors} ? Occupancy::low : Occupancy::high;
}

// ---- Kernels over heads: Reduce, Walk, Apply, Project

/// The longest chunks whose kernels do not spill.
struct ChunkRow {
  int dim_qk;   // up to this many columns of a and b
  int queries;  // chunk where the rows of the output are queries: o and dq
  int keys;     // chunk where they are keys: dk and dv hold their output from query head to query head
};

template <Element T>
constexpr auto chunk_rows() {
  if constexpr (std::same_as<T, bfloat16>)
    return std::array{
        ChunkRow{64, 64, 64},     // 159 registers; 1,630 instructions in 2,530 clocks
        ChunkRow{128, 64, 32},    // 236 registers; 1,812 instructions in 5,061 clocks
        ChunkRow{1024, 32, 32}};  // 232 registers at dim 256, 230 at 512; instructions unmeasured
  else if constexpr (std::same_as<T, half>)
    return std::array{
        ChunkRow{64, 64, 64},     // 2,278 instructions in 2,530 clocks
        ChunkRow{128, 48, 32},    // 254 registers, of which the state's power of two takes some; unmeasured
        ChunkRow{1024, 32, 32}};  // unmeasured
  else if constexpr (std::same_as<T, float>)
    return std::array{ChunkRow{64, 32, 32},   // 184 registers; 3,294 instructions in 2,530 clocks
                      ChunkRow{256, 16, 16},  // 244 registers at dim 128, 246 at 256; instructions unmeasured
                      ChunkRow{1024, 8, 8}};  // 224 registers; instructions unmeasured
  else
    return std::array{ChunkRow{1024, 16, 16}};  // 208 registers at dims 64 to 256; instructions unmeasured
}

/// The longest of the rows' chunks, in two stages. Warps have 16 columns each, of which a block has as many
/// as 8 warps can hold, shared out evenly among blocks; several warps share columns where one has no room
/// for dim_qk.
template <kernel::AnyRoles R>
constexpr Tiling longest_chunk() {
  using T = typename R::element;
  constexpr HeadDim dim = R::dims;
  constexpr int max_warp_depth = sizeof(T) == 8 && dim.qk <= 512 ? 64 : 128;  // of the state's rows
  constexpr int warps_k = (dim.qk + max_warp_depth - 1) / max_warp_depth;
  constexpr int max_warps_n = warps_k >= 8 ? 1 : 8 / warps_k;
  constexpr int width = sm80::round_up(dim.v, 16);
  constexpr int v_tiles = (width + 16 * max_warps_n - 1) / (16 * max_warps_n);
  Tiling t{.chunk = 0, .stages = 2};
  for (const ChunkRow& row : chunk_rows<T>())
    if (t.chunk == 0 && dim.qk <= row.dim_qk) t.chunk = R::rows_are_queries ? row.queries : row.keys;
  t.columns = sm80::round_up((width + v_tiles - 1) / v_tiles, 16);
  t.warps = t.columns / 16 * warps_k;
  // 168 or 255 registers a lane, as shared memory has room for. Unmeasured.
  if (sizeof(T) == 2 && dim.qk <= 64 && t.warps <= 4)
    t.min_blocks_per_sm = R::output == recurrence::Output::o ? 3 : 2;
  return t;
}

/// The next tiling to try where one has no room in shared memory; the same where there is none.
template <Element T>
constexpr Tiling with_less_shared_memory(Tiling t) {
  if (t.chunk > 16)
    t.chunk = t.chunk > 32 ? 32 : t.chunk / 2;
  else if (t.stages > 1)
    t.stages = 1;
  else if (sizeof(T) > 2)
    t.chunk = 8;
  return t;
}

/// The first tiling from `t` on whose Walk, which has the most of a recurrence's kernels, has room in
/// `shared_bytes`; the last where none has.
template <kernel::AnyRoles R, int shared_bytes, Tiling t = longest_chunk<R>()>
constexpr Tiling fitting_tiling() {
  constexpr Tiling next = with_less_shared_memory<typename R::element>(t);
  if constexpr (next == t || sizeof(typename sm80::Walk<R, t>::Storage) <= shared_bytes)
    return t;
  else
    return fitting_tiling<R, shared_bytes, next>();
}

/// The row for devices with much shared memory, and the one that every device has room for where it has for
/// any.
template <kernel::AnyRoles R>
inline constexpr Tiling tuned_recurrence = fitting_tiling<R, shared_bytes_of_large_devices>();
template <kernel::AnyRoles R>
inline constexpr Tiling compact_recurrence = fitting_tiling<R, shared_bytes_of_all_devices>();

/// The row for few blocks, where it is another: twice the warps, which take rows of the output apart. They
/// execute more instructions together, but each fewer: 1,201 for a chunk of bf16 at dim 64 in place of 1,630,
/// 1,757 of fp16 in place of 2,278. Other dims are unmeasured.
template <kernel::AnyRoles R>
inline constexpr Tiling low_occupancy_recurrence = [] {
  Tiling t = tuned_recurrence<R>;
  const int warps_n = t.columns / 16;
  if (sizeof(typename R::element) == 2 && R::output == recurrence::Output::o && R::dims.qk <= 64 &&
      t.warps == warps_n && warps_n <= 4 && sm80::round_up(R::dims.qk, 16) % 32 == 0) {
    t.warps *= 2;
    t.min_blocks_per_sm = std::same_as<typename R::element, half> ? 1 : 2;  // 255 or 128 registers
  }
  return t;
}();

template <kernel::AnyRoles R>
inline constexpr TilingTable recurrence_tilings = [] {
  static_assert(
      low_occupancy_recurrence<R> == tuned_recurrence<R> ||
          sizeof(typename sm80::Walk<R, low_occupancy_recurrence<R>>::Storage) <= shared_bytes_of_all_devices,
      "cottention: the row for few blocks must have room on every device.");
  TilingTable table;
  table.add(tuned_recurrence<R>);
  table.add(compact_recurrence<R>);
  table.add(low_occupancy_recurrence<R>);
  return table;
}();

template <AnyProblem P>
inline constexpr Tiling tuned_forward = tuned_recurrence<kernel::Roles<P, recurrence::Output::o>>;
template <AnyProblem P>
inline constexpr Tiling low_occupancy_forward =
    low_occupancy_recurrence<kernel::Roles<P, recurrence::Output::o>>;

// ---- The kernels that make all gradients together: Gradient and GradientApply

/// Registers hold two states, which up to dim 64 leave room for three blocks; bidirectional one, and a longer
/// chunk. All columns are in one block.
struct FusedBackwardRow {
  int columns;  // up to this many
  int chunk;
  int warps_m;  // warps that share 16 columns, and take rows of the outputs apart
  int min_blocks_per_sm;
};

inline constexpr std::array fused_causal_rows{
    FusedBackwardRow{64, 32, 1, 3},    // bf16 166, fp16 160 registers; 2,683 and 3,935 instructions in 2,214
    FusedBackwardRow{96, 32, 1, 1},    // unmeasured
    FusedBackwardRow{112, 16, 1, 1},   // seven warps share rows out by divisions, whose results take the
                                       // registers of a longer chunk; instructions unmeasured
    FusedBackwardRow{128, 32, 1, 1}};  // 255 registers; bf16 3,321 instructions in 4,428
inline constexpr std::array fused_bidirectional_rows{
    FusedBackwardRow{64, 64, 1, 2},    // bf16 151 registers; instructions unmeasured
    FusedBackwardRow{128, 32, 1, 1}};  // 216 registers; instructions unmeasured
/// For few blocks, causal and bidirectional; only for the columns named.
inline constexpr std::array fused_low_occupancy_rows_bf16{
    FusedBackwardRow{32, 32, 2, 1},   // unmeasured
    FusedBackwardRow{64, 64, 4, 1}};  // 124 registers; causal 1,872 instructions in 4,428
/// Half has more to hold: at dim 64 half the warps.
inline constexpr std::array fused_low_occupancy_rows_fp16{
    FusedBackwardRow{32, 32, 2, 1},   // unmeasured
    FusedBackwardRow{64, 64, 2, 1}};  // 176 registers; causal 4,521 instructions in 4,428

template <AnyProblem P>
constexpr Tiling fused_backward_tiling(Occupancy occupancy) {
  constexpr int columns = sm80::round_up(P::head_dim.v, 16);
  const auto tiling = [](const FusedBackwardRow& row) {
    return Tiling{.chunk = row.chunk,
                  .warps = columns / 16 * row.warps_m,
                  .stages = 2,
                  .columns = columns,
                  .min_blocks_per_sm = row.min_blocks_per_sm};
  };
  if (occupancy == Occupancy::low)
    for (const FusedBackwardRow& row : std::same_as<typename P::element, half>
                                           ? fused_low_occupancy_rows_fp16
                                           : fused_low_occupancy_rows_bf16)
      if (columns == row.columns) return tiling(row);
  if constexpr (P::mask == Mask::causal) {
    for (const FusedBackwardRow& row : fused_causal_rows)
      if (columns <= row.columns) return tiling(row);
  } else {
    for (const FusedBackwardRow& row : fused_bidirectional_rows)
      if (columns <= row.columns) return tiling(row);
  }
  return {};
}

/// Without rows where there are no such kernels.
template <AnyProblem P>
inline constexpr TilingTable fused_backward_tilings = [] {
  TilingTable table;
  if constexpr (sm80::has_fused_backward<P>) {
    table.add(fused_backward_tiling<P>(Occupancy::high));
    table.add(fused_backward_tiling<P>(Occupancy::low));
  }
  return table;
}();

}  // namespace cottention::tuning
