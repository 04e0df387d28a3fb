// Which Tiling the kernels of the wgmma engine get. No row has been timed on a GPU.
#pragma once

#include <concepts>
#include <cstddef>

#include <cottention/kernel/roles.cuh>
#include <cottention/sm90/gradient.cuh>
#include <cottention/sm90/key_gradient_part.cuh>
#include <cottention/sm90/params.cuh>
#include <cottention/sm90/walk.cuh>
#include <cottention/tiling.hpp>

namespace cottention::tuning {

/// The most shared memory of a thread block on a device of compute capability 9.0.
inline constexpr int shared_bytes_of_sm90 = 227 * 1024;

template <kernel::AnyRoles R>
constexpr Tiling wgmma_tiling(int stages) {
  return {.chunk = sm90::chunk_rows,
          .warps = sm90::warps_of<R>,
          .stages = stages,
          .columns = R::dims.v,
          // 128 registers a thread on average are enough for two blocks of bf16, not of fp16.
          .min_blocks_per_sm = std::same_as<typename R::element, bfloat16> &&
                                       R::output == recurrence::Output::o && R::dims.qk <= 64 &&
                                       R::dims.v <= 64
                                   ? 2
                                   : 1,
          .engine = Engine::wgmma};
}

/// Three stages where as many blocks as wgmma_tiling() has have room for them, otherwise two. `three`: with
/// three stages.
template <kernel::AnyRoles R, Tiling three = wgmma_tiling<R>(3)>
constexpr Tiling fitting_wgmma_tiling() {
  constexpr std::size_t room = shared_bytes_of_sm90 / three.min_blocks_per_sm - 1024;
  return sizeof(typename sm90::Walk<R, three>::Storage) <= room ? three : wgmma_tiling<R>(2);
}

/// Walk of o in bf16 takes 110 KiB of shared memory at dim 64 and 214 KiB at dim 128, with three stages; of
/// dq and dk at dim 128 198 KiB, with two. Unmeasured.
template <kernel::AnyRoles R>
requires(sm90::has_kernels<R>) inline constexpr Tiling wgmma_recurrence = fitting_wgmma_tiling<R>();

/// All gradients in one kernel: 213 KiB of shared memory (in half 215), one block on a multiprocessor.
/// Unmeasured.
template <AnyProblem P>
requires(sm90::has_fused_backward<P>) inline constexpr Tiling wgmma_fused_backward{
    .chunk = sm90::chunk_rows, .warps = 16, .stages = 4, .columns = P::head_dim.v, .engine = Engine::wgmma};

/// dk and dv in one kernel. Causal: D takes a warpgroup, and queries as much shared memory as keys; 207 KiB
/// at dim 128, 208 in half. Bidirectional: D is there, and keys have it all; 209 and 210 KiB. Unmeasured.
template <AnyProblem P>
requires(sm90::has_key_gradients<P>) inline constexpr Tiling wgmma_key_gradients{
    .chunk = sm90::chunk_rows,
    .warps = P::mask == Mask::causal ? 12 : 8,
    .stages = P::mask == Mask::causal ? 2 : 4,
    .columns = P::head_dim.v,
    .engine = Engine::wgmma};

}  // namespace cottention::tuning
