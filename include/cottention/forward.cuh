// Cosine attention on NVIDIA GPUs: the forward pass over whole sequences.
#pragma once

#include <cottention/requirements.hpp>

#include <cottention/host_only.hpp>

#include <cottention/host/extents.hpp>
#include <cottention/host/launches.cuh>
#include <cottention/host/recurrence.cuh>
#include <cottention/host/validation.hpp>
#include <cottention/kernel/count.cuh>
#include <cottention/validation.hpp>

namespace cottention {
namespace host {

template <AnyProblem P>
using ForwardRoles = kernel::Roles<P, kernel::Output::o>;

template <AnyProblem P>
kernel::RecurrenceParams<typename P::element> forward_params(
    const ForwardArguments<typename P::element>& args, const SplitPlan& plan, void* workspace) {
  const Shape& s = args.shape;
  auto p = recurrence_params<ForwardRoles<P>>(args, plan);
  p.a = tile::view(args.q, s.seq_q, s.heads_q, s.dim_qk);
  p.b = tile::view(args.k, s.seq_k, s.heads_kv, s.dim_qk);
  p.c = tile::view(args.v, s.seq_k, s.heads_kv, s.dim_v);
  p.out = tile::view(args.o, s.seq_q, s.heads_q, s.dim_v);
  p.initial_h = args.initial_state.h;
  p.final_h = args.final_state.h;
  p.partial_states = plan.pieces > 1 ? static_cast<Accumulate<typename P::element>*>(workspace) : nullptr;
  return p;
}

template <AnyProblem P, Tiling tiling>
CallStatus forward_on(const device::Properties& device, const ForwardArguments<typename P::element>& args,
                      Workspace workspace, cudaStream_t stream, Split split) {
  const SplitPlan plan =
      plan_splits<ForwardRoles<P>, tiling>(args.shape, args.plan, split, device.multiprocessors);
  if (CallStatus status = validate_workspace(workspace, plan.partial_bytes); !status) return status;

  const Shape& s = args.shape;
  const bool any = plan.batch_heads > 0 && ((s.seq_q > 0 && s.heads_q > 0) || args.final_state.h != nullptr);
  const bool counts = s.batch > 0 && args.final_state.count != nullptr;
  using Trailing = kernel::Trailing<typename P::element, 1>;
  const typename Trailing::Params trailing{
      {trailing_rows<Trailing>(args.o, args.cu_seqlens_q, s.batch, s.seq_q, s.heads_q, s.dim_v)}};
  const bool trails = trailing.rows[0].view.data != nullptr;
  Launches launches(device, stream);
  if (any)
    recurrence_kernels<ForwardRoles<P>, tiling>(
        plan, [&]<class Kernel>(device::Grid) { launches.prepare<Kernel>(); });
  if (counts) launches.prepare<kernel::Count>();
  if (trails) launches.prepare<Trailing>();
  if (!launches.status()) return launches.status();

  if (any) {
    const auto params = forward_params<P>(args, plan, workspace.data);
    recurrence_kernels<ForwardRoles<P>, tiling>(
        plan, [&]<class Kernel>(device::Grid grid) { launches.launch<Kernel>(grid, params); });
  }
  if (counts)
    launches.launch<kernel::Count>({s.batch}, {tile::view(args.cu_seqlens_k), args.key_mask, s.seq_k,
                                               args.initial_state.count, args.final_state.count});
  if (trails) launches.launch<Trailing>({Trailing::blocks}, trailing);
  return launches.status();
}

}  // namespace host

/// Bytes of scratch that `forward` needs on the calling thread's current device, which may be 0; pointers
/// need not be set yet. With a Tiling: that of the call. Anything but ok has `bytes` 0, and names what of the
/// shape or of `split` would be refused or carries the number of CUDA's error, as where there is no device.
template <AnyProblem P, Tiling tiling>
[[nodiscard]] CallStatus workspace_bytes(const ForwardArguments<typename P::element>& args,
                                         std::size_t& bytes, Split split = {}) {
  bytes = 0;
  if (CallStatus status = host::validate_extents<P>(args, split); !status) return status;
  device::Properties device;
  if (CallStatus status = device::current_device(device); !status) return status;
  bytes =
      host::plan_splits<host::ForwardRoles<P>, tiling>(args.shape, args.plan, split, device.multiprocessors)
          .partial_bytes;
  return {};
}
template <AnyProblem P>
[[nodiscard]] CallStatus workspace_bytes(const ForwardArguments<typename P::element>& args,
                                         std::size_t& bytes, Split split = {}) {
  bytes = 0;
  if (CallStatus status = host::validate_extents<P>(args, split); !status) return status;
  device::Properties device;
  if (CallStatus status = device::current_device(device); !status) return status;
  return host::with_tiling<host::ForwardRoles<P>>(device, args.shape, args.plan, split, [&](auto tiling) {
    return workspace_bytes<P, decltype(tiling)::value>(args, bytes, split);
  });
}
/// The same as a number, 0 where the call would be refused.
template <AnyProblem P, Tiling... tiling>
std::size_t workspace_bytes(const ForwardArguments<typename P::element>& args, Split split = {}) {
  std::size_t bytes = 0;
  return workspace_bytes<P, tiling...>(args, bytes, split) ? bytes : 0;
}

/// Cosine attention over whole sequences, enqueued on `stream` of the current device:
///
///     o_i = sum over visible j of (norm(q_i) . norm(k_j)) w v_j
///
/// All pointers are to memory that the device can reach. Shapes, layouts and optional arguments:
/// ForwardArguments; what CUDA asks beside: host/validation.hpp. `workspace` holds at least
/// workspace_bytes<P>(args, split) bytes, aligned to 256, and is in use until the stream is past the call.
/// Allocates nothing, waits for nothing, and may be captured in a graph. Equal calls give equal bits; under
/// Plan::batch_invariant the bits of a sequence depend neither on the rest of the batch nor on the number of
/// multiprocessors.
///
/// Anything but ok names the argument, its value and the rule; then nothing has been launched, unless the
/// code is cuda_error.
template <AnyProblem P>
[[nodiscard]] CallStatus forward(const ForwardArguments<typename P::element>& args, Workspace workspace,
                                 cudaStream_t stream, Split split = {}) {
  if (CallStatus status = host::validate_call<P>(args, split); !status) return status;
  device::Properties device;
  if (CallStatus status = device::current_device(device); !status) return status;
  return host::with_tiling<host::ForwardRoles<P>>(device, args.shape, args.plan, split, [&](auto tiling) {
    return host::forward_on<P, decltype(tiling)::value>(device, args, workspace, stream, split);
  });
}

/// The same with a Tiling of the caller's. It changes the speed, and by the order of sums the last bits.
template <AnyProblem P, Tiling tiling>
[[nodiscard]] CallStatus forward(const ForwardArguments<typename P::element>& args, Workspace workspace,
                                 cudaStream_t stream, Split split = {}) {
  if (CallStatus status = host::validate_call<P>(args, split); !status) return status;
  device::Properties device;
  if (CallStatus status = device::current_device(device); !status) return status;
  return host::forward_on<P, tiling>(device, args, workspace, stream, split);
}

}  // namespace cottention
