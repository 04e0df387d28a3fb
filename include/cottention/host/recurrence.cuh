// One recurrence of a call: its tilings and splits, its kernels, and what they are given.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <cottention/device/launch.cuh>
#include <cottention/device/runtime.cuh>
#include <cottention/host/engine.cuh>
#include <cottention/host/select.cuh>
#include <cottention/host/split_plan.hpp>
#include <cottention/host/tensor_maps.cuh>
#include <cottention/kernel/prefix.cuh>
#include <cottention/tuning/sm80.cuh>
#include <cottention/tuning/sm90.cuh>

namespace cottention::host {

/// What of a call over whole sequences its tilings and splits follow from, beside the device.
struct Workload {
  const Shape& shape;
  Plan plan;
  Split split;
  TensorsForTma tma;
};
template <class Arguments>
Workload workload(const Arguments& args, Split split) {
  return {args.shape, args.plan, split, tensors_for_tma(args)};
}

template <kernel::AnyRoles R, Tiling tiling>
SplitPlan plan_splits(const Workload& call, int multiprocessors) {
  const Shape& s = call.shape;
  using T = typename R::element;
  constexpr int max_chunks = 512;  // docs/tuning.md, "Long sequences"
  const BlockSize block{
      .v_tiles = kernel::v_tiles<R, tiling>,
      .chunk = tiling.chunk,
      .partial_elements = host::partial_elements<R, tiling>,
      .element_bytes = sizeof(Accumulate<T>),
      .max_piece_rows = std::same_as<T, float> ? max_chunks * tiling.chunk : 0,
  };
  const RecurrenceExtent extent{.batch_heads = s.batch * s.heads_kv,
                                .rows = R::rows_are_queries ? s.seq_q : s.seq_k,
                                .terms = R::rows_are_queries ? s.seq_k : s.seq_q};
  return plan_splits(extent, call.plan, call.split, block, multiprocessors);
}

/// Whether the device has room and code for the kernels of a Tiling that makes a recurrence's output.
template <kernel::AnyRoles R, Tiling tiling>
bool has_kernels_of(const device::Properties& device) {
  using Kernel = std::conditional_t<R::mask == Mask::causal, Walk<R, tiling>, Apply<R, tiling>>;
  return sizeof(typename Kernel::Storage) <= static_cast<std::size_t>(device.shared_bytes_per_block) &&
         device::has_code<Kernel>();
}

/// Whether a call takes the kernels of the wgmma engine: they are written for the recurrence, TMA takes the
/// tensors, and code for the device is compiled in. In the batch-invariant plan the rest of a batch does not
/// count.
template <kernel::AnyRoles R>
bool takes_wgmma(const Workload& call, const device::Properties& device) {
  if constexpr (sm90::has_kernels<R>)
    return device.compute_capability == 90 && call.tma.serve(R::roles, R::output) &&
           has_kernels_of<R, tuning::wgmma_recurrence<R>>(device);
  else
    return false;
}

/// Rows of the kernels over the heads of an output.
template <kernel::AnyRoles R, Tiling... given>
struct RecurrenceRows {
  static constexpr tuning::TilingTable table = [] {
    tuning::TilingTable rows = tuning::recurrence_tilings<R>;
    if constexpr (sm90::has_kernels<R>) rows.add(tuning::wgmma_recurrence<R>);
    return rows;
  }();

  static std::size_t choose(const Workload& call, const device::Properties& device) {
    if constexpr (sm90::has_kernels<R>)
      if (takes_wgmma<R>(call, device)) return table.row_of(tuning::wgmma_recurrence<R>);
    constexpr Tiling large = tuning::tuned_recurrence<R>;
    if constexpr (tuning::low_occupancy_recurrence<R> != large) {
      // In the batch-invariant plan the rest of the batch must not count.
      const SplitPlan p = plan_splits<R, large>(call, device.multiprocessors);
      if (call.plan != Plan::batch_invariant &&
          tuning::occupancy_of(p.batch_heads * p.pieces * p.v_tiles, device.multiprocessors) ==
              tuning::Occupancy::low)
        return table.row_of(tuning::low_occupancy_recurrence<R>);
    }
    return table.row_of(device.shared_bytes_per_block < tuning::shared_bytes_of_large_devices
                            ? tuning::compact_recurrence<R>
                            : large);
  }
};
/// Whether a Tiling of the caller's suits the kernels of the wgmma engine.
template <kernel::AnyRoles R, Tiling given>
inline constexpr bool is_tiling_of_wgmma = [] {
  if constexpr (sm90::has_kernels<R>) {
    constexpr Tiling own = tuning::wgmma_recurrence<R>;
    return given.chunk == own.chunk && given.stages >= 2 && given.stages <= 4 &&
           given.columns >= own.columns && (given.warps == 0 || given.warps == own.warps) &&
           given.min_blocks_per_sm >= 1 && given.min_blocks_per_sm <= own.min_blocks_per_sm;
  }
  return true;
}();
template <kernel::AnyRoles R, Tiling given>
struct RecurrenceRows<R, given> : GivenRow<given> {
  static_assert(
      given.engine != Engine::wgmma || sm90::has_kernels<R>,
      "cottention: Engine::wgmma is for 16-bit elements and head dims that are multiples of 16 from 64 "
      "to 128. Remedy: Engine::mma_sync, the default.");
  static_assert(
      given.engine != Engine::wgmma || is_tiling_of_wgmma<R, given>,
      "cottention: a Tiling of Engine::wgmma has chunk 64, 2 to 4 stages, all columns, warps 0 or as many "
      "as its kernels, and min_blocks_per_sm 1 or that of the library's own row. Remedy: these, or "
      "Engine::mma_sync, the default.");
};

/// Refuses a Tiling of the caller's whose engine the device or a tensor is not for.
template <Tiling... given>
CallStatus validate_engine(const Workload& call, const device::Properties& device) {
  if (!((given.engine == Engine::wgmma) || ...)) return {};
  if (device.compute_capability != 90)
    return CallStatus::failure(StatusCode::unsupported,
                               "device: has compute capability %d.%d: Engine::wgmma must have 9.0",
                               device.compute_capability / 10, device.compute_capability % 10);
  if (const char* const name = call.tma.first_refused(); name != nullptr)
    return CallStatus::failure(
        StatusCode::unsupported,
        "%s: Engine::wgmma takes tensors with heads, and strides that are positive multiples of 16 bytes. "
        "Remedy: Engine::mma_sync",
        name);
  return {};
}

/// The kernels that write the partial states of pieces, in their order: `each` is called with a kernel and
/// its grid.
template <kernel::AnyRoles R, Tiling tiling, class Each>
void state_kernels(const SplitPlan& plan, Each each) {
  using Prefix = kernel::Prefix<typename R::element, R::mask>;
  each.template operator()<Reduce<R, tiling>>({plan.batch_heads, plan.pieces, plan.v_tiles});
  if (plan.pieces > 1)
    each.template operator()<Prefix>({plan.batch_heads, Prefix::parts(plan.partial_elements), plan.v_tiles});
}
/// The kernels that make the output, likewise.
template <kernel::AnyRoles R, Tiling tiling, class Each>
void output_kernels(const SplitPlan& plan, Each each) {
  const device::Grid pieces{plan.batch_heads, plan.pieces, plan.v_tiles};
  const device::Grid parts{plan.batch_heads, plan.m_blocks, plan.v_tiles};
  if constexpr (R::mask == Mask::causal)
    each.template operator()<Walk<R, tiling>>(pieces);
  else
    each.template operator()<Apply<R, tiling>>(parts);
  if constexpr (has_project<R, tiling>)
    each.template operator()<Project<R, tiling>>(
        {plan.batch_heads, R::mask == Mask::causal ? plan.pieces : plan.m_blocks});
}
/// All kernels over heads.
template <kernel::AnyRoles R, Tiling tiling, class Each>
void recurrence_kernels(const SplitPlan& plan, Each each) {
  if (plan.pieces > 1) state_kernels<R, tiling>(plan, each);
  output_kernels<R, tiling>(plan, each);
}

/// All but the tensors and states.
template <kernel::AnyRoles R, class Arguments>
kernel::RecurrenceParams<typename R::element> recurrence_params(const Arguments& args,
                                                                const SplitPlan& plan) {
  const Shape& s = args.shape;
  const int group = s.heads_q > 0 ? static_cast<int>(s.heads_q / s.heads_kv) : 1;
  const std::int64_t seq_q = s.heads_q > 0 ? s.seq_q : 0;  // without heads there are no positions
  kernel::RecurrenceParams<typename R::element> p;
  p.scale_logit = args.scale_logit;
  p.row_mask = R::rows_are_queries ? args.query_mask : args.key_mask;
  p.term_mask = R::rows_are_queries ? args.key_mask : args.query_mask;
  p.row_offsets = tile::view(R::rows_are_queries ? args.cu_seqlens_q : args.cu_seqlens_k);
  p.term_offsets = tile::view(R::rows_are_queries ? args.cu_seqlens_k : args.cu_seqlens_q);
  p.initial_count = args.initial_state.count;
  p.seq_rows = R::rows_are_queries ? seq_q : s.seq_k;
  p.seq_terms = R::rows_are_queries ? s.seq_k : seq_q;
  p.row_group = R::rows_are_queries ? group : 1;
  p.term_group = R::rows_are_queries ? 1 : group;
  p.heads_kv = static_cast<int>(s.heads_kv);
  p.split_rule = {
      .wanted = plan.wanted, .min_rows = plan.min_rows, .max_rows = plan.max_rows, .max_pieces = plan.pieces};
  p.chunk = plan.chunk;
  p.m_blocks = plan.m_blocks;
  p.v_tiles = plan.v_tiles;
  p.partial_elements = plan.partial_elements;
  return p;
}

/// The tensors of a call in the order of recurrence::Input; g is null in a forward call.
template <Element T>
using Inputs = std::array<tile::View<const T>, 4>;

/// a, b and c by the role table, and the rows whose norm the output goes through.
template <kernel::AnyRoles R>
void set_operands(kernel::RecurrenceParams<typename R::element>& p,
                  const Inputs<typename R::element>& inputs) {
  const auto view = [&inputs](recurrence::Input input) { return inputs[static_cast<std::size_t>(input)]; };
  p.a = view(R::roles.a);
  p.b = view(R::roles.b);
  p.c = view(R::roles.c);
  if constexpr (R::has_norm_backward) p.norm_input = view(recurrence::norm_input(R::output));
}

}  // namespace cottention::host
