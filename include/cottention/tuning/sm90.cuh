// Which Tiling the kernels of the wgmma engine get. No row has been timed on a GPU.
#pragma once

#include <cottention/kernel/roles.cuh>
#include <cottention/sm90/params.cuh>
#include <cottention/sm90/walk.cuh>
#include <cottention/tiling.hpp>

namespace cottention::tuning {

/// The most shared memory of a thread block on a device of compute capability 9.0.
inline constexpr int shared_bytes_of_sm90 = 227 * 1024;

/// As many stages as have room, and with dims up to 64 two blocks on a multiprocessor.
template <kernel::AnyRoles R>
constexpr Tiling wgmma_tiling() {
  constexpr Tiling two{.chunk = sm90::chunk_rows,
                       .warps = 4 * (1 + (R::dims.v + 63) / 64),
                       .stages = 2,
                       .columns = R::dims.v,
                       .min_blocks_per_sm = R::dims.qk <= 64 && R::dims.v <= 64 ? 2 : 1,
                       .engine = Engine::wgmma};
  constexpr Tiling three = [] {
    Tiling t = two;
    t.stages = 3;
    return t;
  }();
  constexpr int room = shared_bytes_of_sm90 / two.min_blocks_per_sm - 1024;
  return sizeof(typename sm90::Walk<R, three>::Storage) <= room ? three : two;
}

/// Bf16 of dim 64: 88 KiB of shared memory, 2 stages; of dim 128: 214 KiB, 3 stages. Unmeasured.
template <kernel::AnyRoles R>
requires(sm90::has_kernels<R>) inline constexpr Tiling wgmma_recurrence = wgmma_tiling<R>();

}  // namespace cottention::tuning
