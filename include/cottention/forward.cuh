// Cosine attention on NVIDIA GPUs: the forward pass over whole sequences.
#pragma once

#include <cottention/device/launch.cuh>
#include <cottention/device/runtime.cuh>
#include <cottention/host/device_arguments.hpp>
#include <cottention/host/forward_plan.hpp>
#include <cottention/kernel/apply.cuh>
#include <cottention/kernel/count.cuh>
#include <cottention/kernel/prefix.cuh>
#include <cottention/kernel/walk.cuh>
#include <cottention/tuning/forward.cuh>
#include <cottention/validation.hpp>

namespace cottention {
namespace host {

template <AnyProblem P, Tiling tiling>
ForwardPlan plan_forward(const ForwardArguments<typename P::element>& args, Split split,
                         int multiprocessors) {
  constexpr std::size_t image_bytes =
      tile::State<P, tiling>::image_elements * sizeof(Accumulate<typename P::element>);
  return plan_forward(args.shape, args.plan, split, tiling.columns, image_bytes, multiprocessors);
}

template <AnyProblem P>
kernel::ForwardParams<typename P::element> forward_params(const ForwardArguments<typename P::element>& args,
                                                          const ForwardPlan& plan, void* workspace) {
  const Shape& s = args.shape;
  kernel::ForwardParams<typename P::element> p;
  p.q = kernel::view(args.q, s.seq_q, s.heads_q, s.dim_qk);
  p.k = kernel::view(args.k, s.seq_k, s.heads_kv, s.dim_qk);
  p.v = kernel::view(args.v, s.seq_k, s.heads_kv, s.dim_v);
  p.o = kernel::view(args.o, s.seq_q, s.heads_q, s.dim_v);
  p.scale_logit = args.scale_logit;
  p.query_mask = args.query_mask;
  p.key_mask = args.key_mask;
  p.offsets_q = kernel::view(args.cu_seqlens_q);
  p.offsets_k = kernel::view(args.cu_seqlens_k);
  p.initial_h = args.initial_state.h;
  p.initial_count = args.initial_state.count;
  p.final_h = args.final_state.h;
  p.images = plan.pieces > 1 ? static_cast<Accumulate<typename P::element>*>(workspace) : nullptr;
  p.seq_q = s.seq_q;
  p.seq_k = s.seq_k;
  p.heads_q = static_cast<int>(s.heads_q);
  p.heads_kv = static_cast<int>(s.heads_kv);
  p.pieces = plan.pieces;
  p.shortest = plan.shortest;
  p.query_parts = plan.query_parts;
  return p;
}

/// Launches one kernel after another until one is refused.
class Launches {
 public:
  explicit Launches(cudaStream_t stream) : stream_(stream) {}

  /// Finds a kernel's code. All of a call's kernels are prepared before the first is launched.
  template <class Kernel>
  void prepare() {
    if (error_ == cudaSuccess) error_ = device::prepare<Kernel>();
  }
  template <class Kernel>
  void launch(device::Grid grid, const typename Kernel::Params& params) {
    if (error_ == cudaSuccess) error_ = device::launch<Kernel>(grid, params, stream_);
  }
  bool ok() const { return error_ == cudaSuccess; }
  Status status() const { return device::status_of(error_, "kernel launch"); }

 private:
  cudaStream_t stream_;
  cudaError_t error_ = cudaSuccess;
};

/// The kernels over heads, in their order: `each` is called with a kernel and its grid.
template <AnyProblem P, Tiling tiling, class Each>
void forward_kernels(const ForwardPlan& plan, Each each) {
  using kernel::Apply, kernel::Prefix, kernel::Reduce, kernel::Sum, kernel::Walk;
  const device::Grid pieces{plan.units, plan.pieces, plan.column_blocks};
  const device::Grid queries{plan.units, plan.query_parts, plan.column_blocks};
  if (plan.pieces > 1) {
    each.template operator()<Reduce<P, tiling>>(pieces);
    each.template operator()<Prefix<P, tiling>>({plan.units, Prefix<P, tiling>::parts, plan.column_blocks});
  }
  if constexpr (P::mask == Mask::causal)
    each.template operator()<Walk<P, tiling>>(pieces);
  else if (plan.pieces > 1)
    each.template operator()<Apply<P, tiling, Sum::from_images>>(queries);
  else
    each.template operator()<Apply<P, tiling, Sum::own>>(queries);
}

}  // namespace host

/// Bytes of scratch that `forward` needs on the calling thread's current device; pointers need not be set
/// yet. 0 for arguments that will be refused.
template <AnyProblem P, Tiling tiling = tuned_forward<P>>
std::size_t workspace_bytes(const ForwardArguments<typename P::element>& args, Split split = {}) {
  device::Properties device;
  if (!detail::validate_shape<P>(args.shape) || !device::current_device(device)) return 0;
  return host::plan_forward<P, tiling>(args, split, device.multiprocessors).image_bytes;
}

/// Cosine attention over whole sequences, enqueued on `stream` of the current device:
///
///     o_i = sum over visible j of (norm(q_i) . norm(k_j)) w v_j
///
/// All pointers are to memory that the device can reach. Shapes, layouts and optional arguments:
/// ForwardArguments; what CUDA asks beside: host/device_arguments.hpp. `workspace` holds at least
/// workspace_bytes<P>(args, split) bytes, aligned to 256, and is in use until the stream is past the call.
/// Allocates nothing, waits for nothing, and may be captured in a graph. Equal calls give equal bits; under
/// Plan::batch_invariant the bits of a sequence depend neither on the rest of the batch nor on the device's
/// size.
///
/// Anything but ok names the argument, its value and the rule; then nothing has been launched, unless the
/// code is cuda_error.
template <AnyProblem P, Tiling tiling = tuned_forward<P>>
[[nodiscard]] Status forward(const ForwardArguments<typename P::element>& args, Workspace workspace,
                             cudaStream_t stream, Split split = {}) {
  if (Status status = validate<P>(args); !status) return status;
  if (Status status = host::validate_for_device<P>(args); !status) return status;
  if (split.pieces < 0 || split.pieces > host::most_pieces)
    return Status::failure(StatusCode::bad_option, "split.pieces = %d: must be at least 0 and at most %d",
                           split.pieces, host::most_pieces);
  device::Properties device;
  if (Status status = device::current_device(device); !status) return status;
  const host::ForwardPlan plan = host::plan_forward<P, tiling>(args, split, device.multiprocessors);
  if (Status status = host::validate_workspace(workspace, plan.image_bytes); !status) return status;

  const bool any =
      plan.units > 0 && ((args.shape.seq_q > 0 && args.shape.heads_q > 0) || args.final_state.h != nullptr);
  const bool counts = args.shape.batch > 0 && args.final_state.count != nullptr;
  host::Launches launches(stream);
  if (any)
    host::forward_kernels<P, tiling>(plan, [&]<class Kernel>(device::Grid) { launches.prepare<Kernel>(); });
  if (counts) launches.prepare<kernel::Count>();
  if (!launches.ok()) return launches.status();

  if (any) {
    const auto params = host::forward_params<P>(args, plan, workspace.data);
    host::forward_kernels<P, tiling>(
        plan, [&]<class Kernel>(device::Grid grid) { launches.launch<Kernel>(grid, params); });
  }
  if (counts)
    launches.launch<kernel::Count>({args.shape.batch},
                                   {kernel::view(args.cu_seqlens_k), args.key_mask, args.shape.seq_k,
                                    args.initial_state.count, args.final_state.count});
  return launches.status();
}

}  // namespace cottention
