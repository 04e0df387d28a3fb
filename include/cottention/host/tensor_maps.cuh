// Tensors as TMA takes them: the rule which ones it does, and the maps of a call.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <cottention/arguments.hpp>
#include <cottention/device/runtime.cuh>
#include <cottention/device/tma.cuh>
#include <cottention/recurrence.hpp>
#include <cottention/sm90/gradient.cuh>
#include <cottention/sm90/params.cuh>

namespace cottention::host {

/// Which tensors of a call TMA takes, by recurrence::Input and by recurrence::Output. Absent ones count as
/// taken.
struct TensorsForTma {
  std::array<bool, 4> inputs{}, outputs{};

  constexpr bool serve(const recurrence::Roles& roles, recurrence::Output output) const {
    const auto takes = [this](recurrence::Input input) { return inputs[static_cast<std::size_t>(input)]; };
    return takes(roles.a) && takes(roles.b) && takes(roles.c) &&
           (!roles.norm_backward || takes(recurrence::norm_input(output))) &&
           outputs[static_cast<std::size_t>(output)];
  }
  /// The name of the first tensor that it does not take; null: it takes all.
  constexpr const char* first_refused() const {
    constexpr const char* names[2][4] = {{"q", "k", "v", "dout"}, {"o", "dq", "dk", "dv"}};
    for (std::size_t i = 0; i < 4; ++i) {
      if (!inputs[i]) return names[0][i];
      if (!outputs[i]) return names[1][i];
    }
    return nullptr;
  }
};

/// Whether TMA takes a tensor, aligned as every call's are: strides of axes with more than one index are
/// positive multiples of 16 bytes below 2^40. CUDA driver API, cuTensorMapEncodeTiled. In the batch-invariant
/// plan the stride between sequences counts for a single one, too.
template <class T>
bool tma_takes(const Tensor<T>& x, std::int64_t batch, std::int64_t seq, std::int64_t heads, std::int64_t dim,
               bool counts_batch) {
  const Strides s = resolve(x.strides, seq, heads, dim);
  const auto fits = [](std::int64_t extent, std::int64_t stride, bool counts) {
    constexpr std::int64_t elements = 16 / static_cast<std::int64_t>(sizeof(T)),
                           limit = std::int64_t{1} << 40;
    return extent < std::int64_t{1} << 31 &&
           ((extent <= 1 && !counts) ||
            (stride > 0 && stride % elements == 0 && stride < limit / static_cast<int>(sizeof(T))));
  };
  return heads > 0 && fits(batch, s.batch, counts_batch) && fits(seq, s.seq, false) &&
         fits(heads, s.head, false);
}

template <class Arguments>
TensorsForTma tensors_for_tma(const Arguments& args) {
  const Shape& s = args.shape;
  const bool packed = args.cu_seqlens_q.given(),
             counts_batch = !packed && s.seq_q > 0 && s.seq_k > 0 && args.plan == Plan::batch_invariant;
  const auto takes = [&](const auto& x, std::int64_t seq, std::int64_t heads, std::int64_t dim) {
    return tma_takes(x, packed ? 1 : s.batch, seq, heads, dim, counts_batch);
  };
  TensorsForTma taken;
  taken.inputs = {takes(args.q, s.seq_q, s.heads_q, s.dim_qk), takes(args.k, s.seq_k, s.heads_kv, s.dim_qk),
                  takes(args.v, s.seq_k, s.heads_kv, s.dim_v), true};
  taken.outputs.fill(true);
  if constexpr (requires { args.o; }) {
    taken.outputs[0] = takes(args.o, s.seq_q, s.heads_q, s.dim_v);
  } else {
    taken.inputs[3] = takes(args.dout, s.seq_q, s.heads_q, s.dim_v);
    taken.outputs = {true, takes(args.dq, s.seq_q, s.heads_q, s.dim_qk),
                     takes(args.dk, s.seq_k, s.heads_kv, s.dim_qk),
                     takes(args.dv, s.seq_k, s.heads_kv, s.dim_v)};
  }
  return taken;
}

/// The map of a tensor (batch, seq, heads, dim), of which tma_takes() holds, in tiles of so many rows; null:
/// a map that is not used.
template <class T>
cudaError_t encode(device::TensorMap& map, const tile::View<T>& x, std::int64_t batch, std::int64_t seq,
                   std::int64_t heads, std::int64_t dim, int tile_rows = sm90::chunk_rows) {
  map = {};
  if (x.data == nullptr || batch == 0 || seq == 0 || heads == 0) return cudaSuccess;
  const auto bytes = [](std::int64_t extent, std::int64_t stride) {
    return extent > 1 ? stride * static_cast<std::int64_t>(sizeof(T)) : 16;
  };
  const device::TensorTiles<4> tiles{
      .data = x.data,
      .extents = {dim, seq, heads, batch},
      .strides = {bytes(seq, x.seq), bytes(heads, x.head), bytes(batch, x.batch)},
      .tile = {sm90::panel_columns, tile_rows, 1, 1},
      .swizzle = device::Swizzle::bytes_128};
  return device::encode_map<std::remove_const_t<T>>(map, tiles);
}

/// The sequences of a call that has so many blocks, as its maps have them.
template <Element T>
std::int64_t batch_of(const kernel::RecurrenceParams<T>& params, std::int64_t blocks) {
  const bool packed = params.row_offsets.int32 != nullptr || params.row_offsets.int64 != nullptr;
  return packed ? 1 : blocks / params.heads_kv;
}

/// What the kernels of an engine are given, from what all engines are. `blocks`: of the grid's x.
template <class Kernel, Element T>
cudaError_t complete(sm90::RecurrenceParams<T>& params, const kernel::RecurrenceParams<T>& common,
                     std::int64_t blocks) {
  using R = typename Kernel::Roles;
  static_cast<kernel::RecurrenceParams<T>&>(params) = common;
  const std::int64_t batch = batch_of(common, blocks);
  const std::int64_t heads_of_rows = std::int64_t{common.heads_kv} * common.row_group;
  const std::int64_t heads_of_terms = std::int64_t{common.heads_kv} * common.term_group;
  cudaError_t error = cudaSuccess;
  const auto add = [&](device::TensorMap& map, const auto& x, std::int64_t seq, std::int64_t heads, int dim) {
    if (error == cudaSuccess) error = encode(map, x, batch, seq, heads, dim);
  };
  add(params.a_map, common.a, common.seq_rows, heads_of_rows, R::dims.qk);
  add(params.b_map, common.b, common.seq_terms, heads_of_terms, R::dims.qk);
  add(params.c_map, common.c, common.seq_terms, heads_of_terms, R::dims.v);
  add(params.norm_input_map, common.norm_input, common.seq_rows, heads_of_rows, R::dims.v);
  add(params.out_map, common.out, common.seq_rows, heads_of_rows, R::dims.v);
  return error;
}
template <class Kernel, AnyProblem P>
cudaError_t complete(sm90::GradientParams<P>& params, const kernel::GradientParams<P>& common,
                     std::int64_t blocks) {
  static_cast<kernel::GradientParams<P>&>(params) = common;
  const auto& dq = common.dq;
  const std::int64_t batch = batch_of(dq, blocks);
  cudaError_t error = cudaSuccess;
  const auto of_queries = [&](device::TensorMap& map, const auto& x, int dim, int rows) {
    if (error == cudaSuccess)
      error = encode(map, x, batch, dq.seq_rows, std::int64_t{dq.heads_kv} * dq.row_group, dim, rows);
  };
  const auto of_keys = [&](device::TensorMap& map, const auto& x, int dim, int rows) {
    if (error == cudaSuccess) error = encode(map, x, batch, dq.seq_terms, dq.heads_kv, dim, rows);
  };
  constexpr HeadDim dims = P::head_dim;
  constexpr int in = sm90::chunk_rows, out = sm90::warp_rows;
  of_queries(params.q_map, dq.norm_input, dims.qk, in);
  of_queries(params.g_map, dq.a, dims.v, in);
  of_queries(params.dq_map, dq.out, dims.qk, out);
  of_keys(params.k_map, dq.c, dims.qk, in);
  of_keys(params.v_map, dq.b, dims.v, in);
  of_keys(params.dk_map, common.dk.out, dims.qk, out);
  of_keys(params.dv_map, common.dv.out, dims.v, out);
  return error;
}

}  // namespace cottention::host
