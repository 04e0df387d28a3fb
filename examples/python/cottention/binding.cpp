// One call of cottention behind a C interface, for programs that load it at run time. Python compiles this file once for
// each call and Problem (compile.py), as C++ or, for GPUs, as CUDA, with these macros:
//
//     COTTENTION_FORWARD, COTTENTION_BACKWARD or COTTENTION_STEP    the call
//     COTTENTION_ELEMENT     double, float, cottention::half or cottention::bfloat16
//     COTTENTION_DIM_QK, COTTENTION_DIM_V    head dimensions, which CUDA wants; 0: any
//     COTTENTION_MASK        causal or bidirectional
//     COTTENTION_SCALE       none, by_key or by_query
#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#include <cottention/cottention.cuh>
#else
#include <cottention/owned_workspace.hpp>
#endif

namespace {

using namespace cottention;

using Attention = Problem<COTTENTION_ELEMENT, (HeadDim{COTTENTION_DIM_QK, COTTENTION_DIM_V}), Mask::COTTENTION_MASK,
                          Scale::COTTENTION_SCALE>;
using Element = Attention::element;
using Sum = Attention::accumulate;

/// What Python passes: fields of eight bytes each, in the order of FIELDS in native.py. What a call does not take is 0.
struct Call {
  Shape shape;
  Tensor<void> q, k, v, o, dout, dq, dk, dv;
  const void* scale_logit;
  void* dscale_logit;
  const void* query_mask;
  const void* key_mask;
  const void* cu_seqlens_q;
  const void* cu_seqlens_k;
  std::int64_t offsets_are_int64;
  const void* initial_h;
  const void* initial_count;
  void* final_h;
  void* final_count;
  const void* dfinal_state;
  void* dinitial_state;
  std::int64_t pool_slots;
  const void* slot;
  const void* accepted;
  std::int64_t batch_invariant;
  std::int64_t threads;  // on a CPU
  void* stream;          // on a GPU, as is the workspace
  void* workspace;
  std::size_t workspace_bytes;
};

template <class T>
Tensor<T> tensor(const Tensor<void>& t) {
  return {static_cast<T*>(t.data), t.strides};
}

[[maybe_unused]] Offsets offsets(const void* data, const Call& call) {
  if (call.offsets_are_int64 != 0) return static_cast<const std::int64_t*>(data);
  return static_cast<const std::int32_t*>(data);
}

/// The part that forward and backward have in common.
template <class Arguments>
Arguments sequence_arguments(const Call& call) {
  Arguments args;
  args.shape = call.shape;
  args.q = tensor<const Element>(call.q);
  args.k = tensor<const Element>(call.k);
  args.v = tensor<const Element>(call.v);
  args.scale_logit = static_cast<const Sum*>(call.scale_logit);
  args.query_mask = static_cast<const std::uint8_t*>(call.query_mask);
  args.key_mask = static_cast<const std::uint8_t*>(call.key_mask);
  args.cu_seqlens_q = offsets(call.cu_seqlens_q, call);
  args.cu_seqlens_k = offsets(call.cu_seqlens_k, call);
  args.initial_state = {static_cast<const Sum*>(call.initial_h), static_cast<const std::int64_t*>(call.initial_count)};
  args.plan = call.batch_invariant != 0 ? Plan::batch_invariant : Plan::automatic;
  return args;
}

#if defined(COTTENTION_FORWARD)
using Arguments = ForwardArguments<Element>;
Arguments arguments(const Call& call) {
  auto args = sequence_arguments<Arguments>(call);
  args.o = tensor<Element>(call.o);
  args.final_state = {static_cast<Sum*>(call.final_h), static_cast<std::int64_t*>(call.final_count)};
  return args;
}
#elif defined(COTTENTION_BACKWARD)
using Arguments = BackwardArguments<Element>;
Arguments arguments(const Call& call) {
  auto args = sequence_arguments<Arguments>(call);
  args.dout = tensor<const Element>(call.dout);
  args.dq = tensor<Element>(call.dq);
  args.dk = tensor<Element>(call.dk);
  args.dv = tensor<Element>(call.dv);
  args.dscale_logit = static_cast<Sum*>(call.dscale_logit);
  args.final_h = static_cast<const Sum*>(call.final_h);
  args.dfinal_state = static_cast<const Sum*>(call.dfinal_state);
  args.dinitial_state = static_cast<Sum*>(call.dinitial_state);
  return args;
}
#elif defined(COTTENTION_STEP)
using Arguments = StepArguments<Element>;
Arguments arguments(const Call& call) {
  Arguments args;
  args.shape = call.shape;
  args.q = tensor<const Element>(call.q);
  args.k = tensor<const Element>(call.k);
  args.v = tensor<const Element>(call.v);
  args.o = tensor<Element>(call.o);
  args.scale_logit = static_cast<const Sum*>(call.scale_logit);
  args.pool = {static_cast<Sum*>(call.final_h), static_cast<std::int64_t*>(call.final_count)};
  args.pool_slots = call.pool_slots;
  args.slot = static_cast<const std::int32_t*>(call.slot);
  args.accepted = static_cast<const std::int32_t*>(call.accepted);
  return args;
}
#endif

#if !defined(__CUDACC__)
namespace backend = cottention::cpu;
#else
namespace backend = cottention;
#endif

/// The call, its name being an overload for its arguments.
template <class... Rest>
CallStatus run(const Arguments& args, Rest&&... rest) {
#if defined(COTTENTION_FORWARD)
  return backend::forward<Attention>(args, rest...);
#elif defined(COTTENTION_BACKWARD)
  return backend::backward<Attention>(args, rest...);
#else
  return backend::step<Attention>(args, rest...);
#endif
}

thread_local CallStatus last;

int code_of(const CallStatus& status) {
  last = status;
  return static_cast<int>(status.code);
}

}  // namespace

#define COTTENTION_EXPORT extern "C" [[gnu::visibility("default")]]

/// The text of the thread's last call: empty where that was ok.
COTTENTION_EXPORT const char* cottention_reason() { return last.reason; }

// What these return is a StatusCode, 0 being ok.

#if defined(__CUDACC__)

COTTENTION_EXPORT int cottention_workspace_bytes(const Call* call, std::size_t* bytes) {
  return code_of(workspace_bytes<Attention>(arguments(*call), *bytes));
}

COTTENTION_EXPORT int cottention_call(const Call* call) {
  return code_of(run(arguments(*call), Workspace{call->workspace, call->workspace_bytes},
                     static_cast<cudaStream_t>(call->stream)));
}

#else

COTTENTION_EXPORT int cottention_call(const Call* call) {
  static thread_local HostWorkspace workspace;
  return code_of(run(arguments(*call), workspace, cpu::Execution{.threads = static_cast<int>(call->threads)}));
}

#endif
