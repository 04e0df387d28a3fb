// What CUDA asks of a Problem, a Tiling and arguments beyond the rules of cottention/validation.hpp.
//
// Pointers are to device memory, so nothing here or in a CUDA call looks behind them: the contents of slots,
// `accepted`, counts and `cu_seqlens` are not checked. Before they are uploaded, `validate_contents` checks
// them in host memory, but for the bound that CUDA's `step` sets to counts (step.cuh). Kernels treat a slot
// outside the pool as a negative one and `accepted` as the nearest of 0 to T.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include <cottention/arguments.hpp>
#include <cottention/host/split_plan.hpp>
#include <cottention/tiling.hpp>
#include <cottention/validation.hpp>

namespace cottention::host {

/// Pointers and distances between rows are multiples of this: the widest access of a thread. CUDA C++
/// Programming Guide, "Size and Alignment Requirement".
inline constexpr std::int64_t access_bytes = 16;

/// Workspaces of CUDA calls are aligned to this, as all memory from cudaMalloc is.
inline constexpr std::size_t device_workspace_alignment = 256;

/// Blocks that a grid has at most in direction x. CUDA C++ Programming Guide, "Technical Specifications per
/// Compute Capability".
inline constexpr std::int64_t max_grid_blocks = (std::int64_t{1} << 31) - 1;
/// Kernels count rows, heads and sequences in 32 bits, rows to the end of the last chunks.
inline constexpr std::int64_t max_axis = (std::int64_t{1} << 31) - 65'536;

/// Head dimensions that there are kernels for.
constexpr bool is_device_dim(int dim) {
  return dim > 0 && dim % 8 == 0 && (dim <= 256 || dim == 512 || dim == 1024);
}

/// Refuses a Problem that there are no kernels for when it is compiled.
template <AnyProblem P>
constexpr void require_device_problem() {
  static_assert(
      P::head_dim != any_head_dim,
      "cottention: a CUDA call needs fixed head dimensions, because its kernels are compiled for them. "
      "Remedy: write HeadDim{dim_qk, dim_v}, and where they are known only at run time, list those "
      "that occur and choose among them with dispatch (cottention/dispatch.hpp).");
  static_assert(
      P::head_dim == any_head_dim || (is_device_dim(P::head_dim.qk) && is_device_dim(P::head_dim.v)),
      "cottention: CUDA kernels need head dimensions that are multiples of 8 up to 256, or 512 or "
      "1024, because a thread reads 8 elements of 16 bits at once. Remedy: lengthen rows with zeros, "
      "which change neither norms nor products.");
}

/// Refuses a Tiling that there are no kernels for, of a caller who names one or none.
template <Tiling... tiling>
constexpr void require_device_tiling() {
  static_assert(
      sizeof...(tiling) <= 1,
      "cottention: a CUDA call takes at most one Tiling, which all of its kernels over heads get. Remedy: "
      "name one, or none for the library's choice.");
  static_assert(
      ((tiling.engine == Engine::mma_sync || tiling.engine == Engine::wgmma) && ...),
      "cottention: a Tiling's engine must be one that kernels are written for, because its kernels are "
      "compiled from it. Remedy: Engine::mma_sync, the default, or Engine::wgmma.");
}

namespace detail {

using cottention::detail::number;

inline CallStatus validate_aligned(const char* name, const char* member, const void* data) {
  if (reinterpret_cast<std::uintptr_t>(data) % access_bytes == 0) return {};
  return CallStatus::failure(StatusCode::bad_option, "%s%s = %p: must be aligned to %lld bytes on a device",
                             name, member, data, number(access_bytes));
}

template <class T>
CallStatus validate_tensor(const char* name, const Tensor<T>& x, std::array<std::int64_t, 4> extents) {
  for (const std::int64_t extent : extents)
    if (extent == 0) return {};
  if (CallStatus s = validate_aligned(name, ".data", x.data); !s) return s;
  struct Axis {
    const char* name;
    std::int64_t stride, extent;
  };
  constexpr std::int64_t elements = access_bytes / static_cast<std::int64_t>(sizeof(T));
  const Strides strides = resolve(x.strides, extents[1], extents[2], extents[3]);
  const Axis batch{"batch", strides.batch, extents[0]}, seq{"seq", strides.seq, extents[1]},
      head{"head", strides.head, extents[2]};
  const bool outside = x.strides.head == outside_seq;
  // The innermost at fault is the one to name: others may follow from it.
  for (const Axis& axis : {outside ? seq : head, outside ? head : seq, batch})
    if (axis.extent > 1 && axis.stride % elements != 0)
      return CallStatus::failure(
          StatusCode::bad_stride,
          "%s.strides.%s = %lld: must be a multiple of %lld elements, 16 bytes, on a device", name, axis.name,
          number(axis.stride), number(elements));
  return {};
}

/// The tensors that all calls have.
template <class Arguments>
CallStatus validate_tensors(const Arguments& args, std::int64_t batch) {
  const Shape& s = args.shape;
  if (CallStatus status = validate_tensor("q", args.q, {batch, s.seq_q, s.heads_q, s.dim_qk}); !status)
    return status;
  if (CallStatus status = validate_tensor("k", args.k, {batch, s.seq_k, s.heads_kv, s.dim_qk}); !status)
    return status;
  return validate_tensor("v", args.v, {batch, s.seq_k, s.heads_kv, s.dim_v});
}

}  // namespace detail

/// Checks what CUDA asks of the arguments of `forward`, once `validate` has accepted them.
template <AnyProblem P>
CallStatus validate_for_device(const ForwardArguments<typename P::element>& args) {
  require_device_problem<P>();
  const Shape& s = args.shape;
  const std::int64_t batch = args.cu_seqlens_q.given() ? 1 : s.batch;
  if (CallStatus status = detail::validate_tensors(args, batch); !status) return status;
  if (CallStatus status = detail::validate_tensor("o", args.o, {batch, s.seq_q, s.heads_q, s.dim_v}); !status)
    return status;
  if (CallStatus status = detail::validate_aligned("initial_state", ".h", args.initial_state.h); !status)
    return status;
  return detail::validate_aligned("final_state", ".h", args.final_state.h);
}

/// Likewise for `backward`.
template <AnyProblem P>
CallStatus validate_for_device(const BackwardArguments<typename P::element>& args) {
  require_device_problem<P>();
  const Shape& s = args.shape;
  const std::int64_t batch = args.cu_seqlens_q.given() ? 1 : s.batch;
  if (CallStatus status = detail::validate_tensors(args, batch); !status) return status;
  if (CallStatus status = detail::validate_tensor("dout", args.dout, {batch, s.seq_q, s.heads_q, s.dim_v});
      !status)
    return status;
  if (CallStatus status = detail::validate_tensor("dq", args.dq, {batch, s.seq_q, s.heads_q, s.dim_qk});
      !status)
    return status;
  if (CallStatus status = detail::validate_tensor("dk", args.dk, {batch, s.seq_k, s.heads_kv, s.dim_qk});
      !status)
    return status;
  if (CallStatus status = detail::validate_tensor("dv", args.dv, {batch, s.seq_k, s.heads_kv, s.dim_v});
      !status)
    return status;
  if (CallStatus status = detail::validate_aligned("initial_state", ".h", args.initial_state.h); !status)
    return status;
  if (CallStatus status = detail::validate_aligned("final_h", "", args.final_h); !status) return status;
  if (CallStatus status = detail::validate_aligned("dfinal_state", "", args.dfinal_state); !status)
    return status;
  return detail::validate_aligned("dinitial_state", "", args.dinitial_state);
}

/// Likewise for `step`.
template <AnyProblem P>
CallStatus validate_for_device(const StepArguments<typename P::element>& args) {
  require_device_problem<P>();
  const Shape& s = args.shape;
  if (CallStatus status = detail::validate_tensors(args, s.batch); !status) return status;
  if (CallStatus status = detail::validate_tensor("o", args.o, {s.batch, s.seq_q, s.heads_q, s.dim_v});
      !status)
    return status;
  return detail::validate_aligned("pool", ".h", args.pool.h);
}

inline CallStatus validate_length(const char* name, std::int64_t length) {
  if (length <= max_axis) return {};
  return CallStatus::failure(StatusCode::bad_shape, "shape.%s = %lld: must be at most %lld on a device", name,
                             detail::number(length), detail::number(max_axis));
}

/// Checks what workspace_bytes rests on, of a call over whole sequences.
template <AnyProblem P, class Arguments>
CallStatus validate_extents(const Arguments& args, Split split) {
  const Shape& shape = args.shape;
  if (CallStatus status = cottention::detail::validate_shape<P>(shape); !status) return status;
  if constexpr (requires { args.checkpoint_interval; })
    if (args.checkpoint_interval != 0)
      return CallStatus::failure(StatusCode::unsupported, "checkpoint_interval = %lld: must be 0 on a device",
                                 detail::number(args.checkpoint_interval));
  if (CallStatus status = validate_length("seq_q", shape.seq_q); !status) return status;
  if (CallStatus status = validate_length("seq_k", shape.seq_k); !status) return status;
  if (CallStatus status = validate_length("batch", shape.batch); !status) return status;
  if (CallStatus status = validate_length("heads_q", shape.heads_q); !status) return status;
  if (split.pieces < 0 || split.pieces > max_pieces)
    return CallStatus::failure(StatusCode::bad_option, "split.pieces = %d: must be at least 0 and at most %d",
                               split.pieces, max_pieces);
  if (shape.batch > 0 && shape.heads_kv > max_grid_blocks / shape.batch)
    return CallStatus::failure(
        StatusCode::bad_shape,
        "shape.heads_kv = %lld: must be at most %lld with a batch of %lld, for the blocks "
        "of a grid",
        detail::number(shape.heads_kv), detail::number(max_grid_blocks / shape.batch),
        detail::number(shape.batch));
  return cottention::detail::validate_extents<P>(args);
}

/// Checks all of a call over whole sequences that can be told without the device.
template <AnyProblem P, class Arguments>
CallStatus validate_call(const Arguments& args, Split split) {
  if (CallStatus status = validate_extents<P>(args, split); !status) return status;
  if (CallStatus status = validate<P>(args); !status) return status;
  return validate_for_device<P>(args);
}

/// Checks what the kernel of `step` counts in 32 bits, and what it keeps above a sequence's count, which has
/// a reader for each key head and each of `v_tiles` tiles of columns; each adds `reader` to it.
inline CallStatus validate_step_extents(const Shape& s, int v_tiles, std::int64_t reader) {
  using detail::number;
  const std::int64_t max_readers = (std::int64_t{1} << 62) / reader - 1;
  if (s.heads_kv * v_tiles > max_readers)
    return CallStatus::failure(StatusCode::bad_shape,
                               "shape.heads_kv = %lld: must be at most %lld on a device", number(s.heads_kv),
                               number(max_readers / v_tiles));
  if (s.batch * s.heads_kv * v_tiles > max_grid_blocks)
    return CallStatus::failure(
        StatusCode::bad_shape, "shape.batch = %lld: must be at most %lld on a device with %lld key heads",
        number(s.batch), number(max_grid_blocks / v_tiles / s.heads_kv), number(s.heads_kv));
  const std::int64_t rows_per_token = 1 + s.heads_q / s.heads_kv;
  if (s.seq_q > max_axis / rows_per_token)
    return CallStatus::failure(StatusCode::bad_shape, "shape.seq_q = %lld: must be at most %lld on a device",
                               number(s.seq_q), number(max_axis / rows_per_token));
  return {};
}

/// Checks all of a call of `step` that can be told without the kernel.
template <AnyProblem P>
CallStatus validate_step(const StepArguments<typename P::element>& args) {
  if (CallStatus status = validate<P>(args); !status) return status;
  return validate_for_device<P>(args);
}

/// Checks scratch memory of a CUDA call against what `workspace_bytes` asked for.
inline CallStatus validate_workspace(const Workspace& workspace, std::size_t needed) {
  if (CallStatus status = validate(workspace, needed); !status) return status;
  if (needed > 0 && reinterpret_cast<std::uintptr_t>(workspace.data) % device_workspace_alignment != 0)
    return CallStatus::failure(StatusCode::bad_workspace,
                               "workspace.data = %p: must be aligned to %zu bytes on a device",
                               workspace.data, device_workspace_alignment);
  return {};
}

}  // namespace cottention::host
