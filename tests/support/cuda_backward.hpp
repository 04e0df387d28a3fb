// Runs `backward` on the device, or in the emulator, and checks its results as those of the CPU backend are.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include <cottention/backward.cuh>

#include "support/backward_check.hpp"
#include "support/cuda_forward.hpp"
#include "support/mirror.hpp"

namespace support {

/// Device memory for the arrays of a backward call.
template <cottention::Element T>
cottention::BackwardArguments<T> mirrored(Mirror& mirror, cottention::BackwardArguments<T> args) {
  const cottention::Shape& s = args.shape;
  const std::int64_t rows = args.cu_seqlens_q.given() ? 1 : s.batch;
  const std::int64_t state = s.batch * s.heads_kv * s.dim_qk * s.dim_v;
  args.q = mirror.tensor(args.q, rows, s.seq_q, s.heads_q, s.dim_qk);
  args.k = mirror.tensor(args.k, rows, s.seq_k, s.heads_kv, s.dim_qk);
  args.v = mirror.tensor(args.v, rows, s.seq_k, s.heads_kv, s.dim_v);
  args.dout = mirror.tensor(args.dout, rows, s.seq_q, s.heads_q, s.dim_v);
  args.dq = mirror.tensor(args.dq, rows, s.seq_q, s.heads_q, s.dim_qk);
  args.dk = mirror.tensor(args.dk, rows, s.seq_k, s.heads_kv, s.dim_qk);
  args.dv = mirror.tensor(args.dv, rows, s.seq_k, s.heads_kv, s.dim_v);
  args.scale_logit = mirror.array(args.scale_logit, s.heads_kv);
  args.dscale_logit = mirror.array(args.dscale_logit, s.heads_kv);
  args.query_mask = mirror.array(args.query_mask, rows * s.seq_q);
  args.key_mask = mirror.array(args.key_mask, rows * s.seq_k);
  args.cu_seqlens_q = mirror.offsets(args.cu_seqlens_q, s.batch);
  args.cu_seqlens_k = mirror.offsets(args.cu_seqlens_k, s.batch);
  args.initial_state.h = mirror.array(args.initial_state.h, state);
  args.initial_state.count = mirror.array(args.initial_state.count, s.batch);
  args.dfinal_state = mirror.array(args.dfinal_state, state);
  args.dinitial_state = mirror.array(args.dinitial_state, state);
  args.final_h = mirror.array(args.final_h, state);
  return args;
}

/// What a backward call may be asked for.
enum class Wanted { dq, dk, dv, dscale_logit, dinitial_state };
inline constexpr std::array every_gradient{Wanted::dq, Wanted::dk, Wanted::dv, Wanted::dscale_logit,
                                           Wanted::dinitial_state};

/// How a call is made on the device, but for its inputs.
struct BackwardManner {
  cottention::Split split{};
  Layout layout = Layout::bshd;         ///< of outputs
  Presence final_h = Presence::absent;  ///< for check_cuda_backward
  std::span<const Wanted> wanted = every_gradient;
};

/// Outputs of a call, born as NaN.
template <cottention::Element T>
class GradientBuffers {
 public:
  GradientBuffers(const cottention::Shape& s, std::int64_t batch, Layout layout)
      : dq_(layout, batch, s.seq_q, s.heads_q, s.dim_qk),
        dk_(layout, batch, s.seq_k, s.heads_kv, s.dim_qk),
        dv_(layout, batch, s.seq_k, s.heads_kv, s.dim_v),
        dscale_logit_(s.heads_kv),
        dinitial_state_(s.batch * s.heads_kv * s.dim_qk * s.dim_v) {}

  void ask(Wanted wanted, cottention::BackwardArguments<T>& args) {
    switch (wanted) {
      case Wanted::dq:
        args.dq = dq_.view();
        break;
      case Wanted::dk:
        args.dk = dk_.view();
        break;
      case Wanted::dv:
        args.dv = dv_.view();
        break;
      case Wanted::dscale_logit:
        args.dscale_logit = dscale_logit_.data();
        break;
      case Wanted::dinitial_state:
        args.dinitial_state = dinitial_state_.data();
        break;
    }
  }

  bool surroundings_untouched() const {
    return dq_.surroundings_untouched() && dk_.surroundings_untouched() && dv_.surroundings_untouched() &&
           dscale_logit_.guards_untouched() && dinitial_state_.guards_untouched();
  }

  /// NaN where nothing was asked for.
  Gradient values() const {
    return {.dq = dq_.values(),
            .dk = dk_.values(),
            .dv = dv_.values(),
            .dscale_logit = values_of(dscale_logit_),
            .dinitial_state = values_of(dinitial_state_)};
  }

 private:
  using A = cottention::Accumulate<T>;
  TensorBuffer<T> dq_, dk_, dv_;
  Buffer<A> dscale_logit_, dinitial_state_;
};

/// `args` has the inputs, in host memory; outputs are added here. With the library's tiling or the given one.
template <cottention::AnyProblem P, cottention::Tiling... tiling>
Gradient run_cuda_backward(cottention::BackwardArguments<typename P::element> args,
                           const BackwardManner& manner = {}) {
  using T = typename P::element;
  GradientBuffers<T> out(args.shape, args.cu_seqlens_q.given() ? 1 : args.shape.batch, manner.layout);
  for (const Wanted wanted : manner.wanted) out.ask(wanted, args);
  Mirror mirror;
  const auto device_args = mirrored(mirror, args);
  const std::size_t bytes = cottention::workspace_bytes<P, tiling...>(device_args, manner.split);
  std::vector<unsigned char> scratch(bytes, nan_byte);
  const cottention::Workspace workspace{
      bytes == 0 ? nullptr : mirror.array(scratch.data(), static_cast<std::int64_t>(bytes)), bytes};
  const auto chosen = cottention::choice<P, tiling...>(device_args, manner.split);
  CHECK(chosen.workspace_bytes == bytes);
  const LaunchCount launches;
  const cottention::CallStatus status =
      cottention::backward<P, tiling...>(device_args, workspace, nullptr, manner.split);
  INFO(status.reason);
  REQUIRE(status.ok());
  launches.check(chosen.launches);
  mirror.download();
  CHECK(out.surroundings_untouched());
  return out.values();
}

/// The same gradients from as many calls, each of which is asked for one.
template <cottention::AnyProblem P>
Gradient run_cuda_backward_one_by_one(const cottention::BackwardArguments<typename P::element>& args) {
  Gradient apart;
  for (const Wanted wanted : every_gradient) {
    const Gradient alone = run_cuda_backward<P>(args, {.wanted = std::array{wanted}});
    switch (wanted) {
      case Wanted::dq:
        apart.dq = alone.dq;
        break;
      case Wanted::dk:
        apart.dk = alone.dk;
        break;
      case Wanted::dv:
        apart.dv = alone.dv;
        break;
      case Wanted::dscale_logit:
        apart.dscale_logit = alone.dscale_logit;
        break;
      case Wanted::dinitial_state:
        apart.dinitial_state = alone.dinitial_state;
        break;
    }
  }
  return apart;
}

/// final_state.h of the forward call with these inputs.
template <cottention::Element T>
std::vector<cottention::Accumulate<T>> final_h_of(const Inputs<T>& inputs) {
  std::vector<cottention::Accumulate<T>> h;
  for (const double value : expected_output(inputs.description(), inputs.forward()).h)
    h.push_back(static_cast<cottention::Accumulate<T>>(value));
  return h;
}

/// Runs the inputs of a case and checks all gradients.
template <cottention::AnyProblem P, cottention::Tiling... tiling>
void check_cuda_backward(Inputs<typename P::element>& inputs, const BackwardManner& manner = {}) {
  using T = typename P::element;
  INFO(describe<T>(inputs.description()) << ", pieces " << manner.split.pieces
                                         << (manner.final_h == Presence::present ? ", final_h given" : ""));
  auto args = inputs.backward();
  std::vector<cottention::Accumulate<T>> final_h;
  if (manner.final_h == Presence::present) {
    final_h = final_h_of(inputs);
    args.final_h = final_h.data();
  }
  check_gradient(inputs, run_cuda_backward<P, tiling...>(args, manner));
}

/// Generates a case with the Problem's head dims, mask and scale, runs it and checks it.
template <cottention::AnyProblem P, cottention::Tiling... tiling>
void check_cuda_backward(Case c, const BackwardManner& manner = {}) {
  c.mask = P::mask;
  c.scale = P::scale;
  c.shape.dim_qk = P::head_dim.qk;
  c.shape.dim_v = P::head_dim.v;
  Inputs<typename P::element> inputs(c);
  check_cuda_backward<P, tiling...>(inputs, manner);
}

}  // namespace support
