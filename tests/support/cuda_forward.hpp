// Runs `forward` on the device, or in the emulator, and checks its results as those of the CPU backend are.
#pragma once

#include <cottention/forward.cuh>

#include "support/forward_check.hpp"
#include "support/launches.hpp"
#include "support/mirror.hpp"

namespace support {

// Element types by the names that they go by in benchmarks and builds.
using fp64 = double;
using fp32 = float;
using fp16 = cottention::half;
using bf16 = cottention::bfloat16;

/// How a call is made on the device, but for its inputs.
struct DeviceManner {
  cottention::Split split{};
  Layout layout = Layout::bshd;  ///< of outputs
  FinalState final_state = FinalState::separate;
};

/// A call whose arguments are in host memory and valid, with the given tiling, or the library's choice.
template <cottention::AnyProblem P, cottention::Tiling... tiling>
void call_cuda_forward(const cottention::ForwardArguments<typename P::element>& args,
                       cottention::Split split = {}) {
  Mirror mirror;
  const auto device_args = mirror.forward(args);
  const std::size_t bytes = cottention::workspace_bytes<P, tiling...>(device_args, split);
  std::vector<unsigned char> scratch(bytes, nan_byte);
  const cottention::Workspace workspace{
      bytes == 0 ? nullptr : mirror.array(scratch.data(), static_cast<std::int64_t>(bytes)), bytes};
  const auto chosen = cottention::choice<P, tiling...>(device_args, split);
  CHECK(chosen.workspace_bytes == bytes);
  const LaunchCount launches;
  const cottention::CallStatus status =
      cottention::forward<P, tiling...>(device_args, workspace, nullptr, split);
  INFO(status.reason);
  REQUIRE(status.ok());
  launches.check(chosen.launches);
  mirror.download();
}

/// The same as an object. One tiling is compiled faster than all that the library may choose.
template <cottention::AnyProblem P, cottention::Tiling tiling = cottention::tuning::tuned_forward<P>>
auto cuda_forward(cottention::Split split = {}) {
  return [split](const cottention::ForwardArguments<typename P::element>& args) {
    call_cuda_forward<P, tiling>(args, split);
  };
}

/// `args` has the inputs, in host memory; outputs are added here. With the given tiling, or the library's
/// choice.
template <cottention::AnyProblem P, cottention::Tiling... tiling>
Output run_cuda_forward_with(cottention::ForwardArguments<typename P::element> args,
                             const DeviceManner& manner = {}) {
  using T = typename P::element;
  const cottention::Shape& s = args.shape;
  const std::int64_t batch = args.cu_seqlens_q.given() ? 1 : s.batch;
  TensorBuffer<T> o(manner.layout, batch, s.seq_q, s.heads_q, s.dim_v);
  Buffer<cottention::Accumulate<T>> h(s.batch * s.heads_kv * s.dim_qk * s.dim_v);
  Buffer<std::int64_t> count(s.batch);
  args.o = o.view();
  if (manner.final_state != FinalState::absent) args.final_state = {h.data(), count.data()};
  if (manner.final_state == FinalState::in_place) {
    std::copy_n(args.initial_state.h, h.count(), h.data());
    std::copy_n(args.initial_state.count, count.count(), count.data());
    args.initial_state = {h.data(), count.data()};
  }
  call_cuda_forward<P, tiling...>(args, manner.split);
  CHECK(o.surroundings_untouched());
  CHECK(h.guards_untouched());
  CHECK(count.guards_untouched());
  if (manner.final_state == FinalState::absent) return {.o = o.values(), .h = {}, .count = {}};
  return {.o = o.values(), .h = values_of(h), .count = {count.data(), count.data() + count.count()}};
}

/// One tiling is compiled faster than all that the library may choose.
template <cottention::AnyProblem P, cottention::Tiling tiling = cottention::tuning::tuned_forward<P>>
Output run_cuda_forward(const cottention::ForwardArguments<typename P::element>& args,
                        const DeviceManner& manner = {}) {
  return run_cuda_forward_with<P, tiling>(args, manner);
}

/// Generates a case with the Problem's head dims, mask and scale, runs it and checks it.
template <cottention::AnyProblem P, cottention::Tiling tiling = cottention::tuning::tuned_forward<P>>
void check_cuda_forward(Case c, const DeviceManner& manner = {}) {
  using T = typename P::element;
  c.mask = P::mask;
  c.scale = P::scale;
  c.shape.dim_qk = P::head_dim.qk;
  c.shape.dim_v = P::head_dim.v;
  Inputs<T> inputs(c);
  INFO(describe<T>(c) << ", pieces " << manner.split.pieces);
  const Output expected = expected_output(c, inputs.forward());
  Output got = run_cuda_forward<P, tiling>(inputs.forward(), manner);
  if (manner.final_state == FinalState::absent) {  // then only o is checked
    got.h = expected.h;
    got.count = expected.count;
  }
  check_output(inputs, got, expected);
}

}  // namespace support
