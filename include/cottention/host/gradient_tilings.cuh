// The kernels that make several gradients, and which Tiling of theirs a call takes.
#pragma once

#include <cstddef>

#include <cottention/host/launches.cuh>
#include <cottention/host/recurrence.cuh>
#include <cottention/tuning/sm80.cuh>
#include <cottention/tuning/sm90.cuh>

namespace cottention::host {

/// The kernel of a Tiling that makes all gradients.
template <AnyProblem P, Tiling tiling>
struct FusedBackwardKernel {
  using type = Gradient<P, tiling>;
};
template <AnyProblem P, Tiling tiling>
requires(P::mask == Mask::bidirectional) struct FusedBackwardKernel<P, tiling> {
  using type = GradientApply<P, tiling>;
};

/// Rows of the kernel that makes all gradients. A call with a Tiling of the caller's has none.
template <AnyProblem P, Tiling... given>
struct FusedBackwardTilings {
  static constexpr bool has_wgmma = sizeof...(given) == 0 && sm90::has_fused_backward<P>;
  static constexpr tuning::TilingTable table = [] {
    tuning::TilingTable rows;
    if constexpr (sizeof...(given) == 0) rows = tuning::fused_backward_tilings<P>;
    if constexpr (has_wgmma) rows.add(tuning::wgmma_fused_backward<P>);
    return rows;
  }();
  template <Tiling tiling>
  using Kernel = typename FusedBackwardKernel<P, tiling>::type;

  /// The row of the wgmma engine; the count of rows where the device or a tensor is not for it.
  static std::size_t choose_wgmma(const Workload& call, const device::Properties& device) {
    if constexpr (has_wgmma) {
      constexpr Tiling tiling = tuning::wgmma_fused_backward<P>;
      if (device.compute_capability == 90 && call.tma.first_refused() == nullptr &&
          has_room<Kernel<tiling>>(device) && device::has_code<Kernel<tiling>>())
        return table.row_of(tiling);
    }
    return table.count;
  }
  /// The row of the mma.sync engine for so many blocks; the count of rows where the device has room for none.
  static std::size_t choose_mma_sync(tuning::Occupancy occupancy, const device::Properties& device) {
    if constexpr (sizeof...(given) == 0 && sm80::has_fused_backward<P>) {
      constexpr Tiling low = tuning::fused_backward_tiling<P>(tuning::Occupancy::low),
                       high = tuning::fused_backward_tiling<P>(tuning::Occupancy::high);
      if (occupancy == tuning::Occupancy::low && has_room<Kernel<low>>(device)) return table.row_of(low);
      if (has_room<Kernel<high>>(device)) return table.row_of(high);
    }
    return table.count;
  }
};

/// The kernel of a Tiling that makes dk and dv.
template <AnyProblem P, Tiling tiling>
struct KeyGradientKernel {
  using type = KeyGradients<P, tiling>;
};
template <AnyProblem P, Tiling tiling>
requires(P::mask == Mask::bidirectional) struct KeyGradientKernel<P, tiling> {
  using type = KeyGradientApply<P, tiling>;
};

/// Rows of the kernel that makes dk and dv. A call with a Tiling of the caller's has none.
template <AnyProblem P, Tiling... given>
struct KeyGradientTilings {
  static constexpr tuning::TilingTable table = [] {
    tuning::TilingTable rows;
    if constexpr (sizeof...(given) == 0 && sm90::has_key_gradients<P>)
      rows.add(tuning::wgmma_key_gradients<P>);
    return rows;
  }();
  template <Tiling tiling>
  using Kernel = typename KeyGradientKernel<P, tiling>::type;
};

}  // namespace cottention::host
