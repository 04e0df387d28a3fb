// Calls of the CUDA backward: what they refuse, what they promise about bits, and that they give the
// derivatives of what the CUDA forward computes.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#if __has_include(<emulation.hpp>)
#include <emulation.hpp>

#include "support/host_calls.hpp"
#endif

#include <cottention/owned_workspace.cuh>

#include "support/catch.hpp"
#include "support/cuda_backward.hpp"
#include "support/part.hpp"

using cottention::HeadDim, cottention::Mask, cottention::Plan, cottention::Problem, cottention::Scale,
    cottention::Split, cottention::CallStatus, cottention::StatusCode;
using namespace support;

namespace {

using P = Problem<float, HeadDim{16, 24}, Mask::causal, Scale::by_key>;
using Everything = Problem<float, HeadDim{16, 24}, Mask::bidirectional, Scale::by_key>;

/// Valid arguments, in device memory; all gradients stay NaN unless something is launched.
struct DeviceCall {
  Inputs<float> inputs;
  std::vector<float> final_h;
  GradientBuffers<float> out;
  Mirror mirror;
  cottention::BackwardArguments<float> args;
  std::vector<unsigned char> scratch;
  cottention::Workspace workspace{};
  Split split{};

  explicit DeviceCall(const Case& c)
      : inputs(c), final_h(final_h_of(inputs)), out(c.shape, c.shape.batch, Layout::bshd) {
    args = inputs.backward();
    args.final_h = final_h.data();
    for (const Wanted wanted : every_gradient) out.ask(wanted, args);
    args = mirrored(mirror, args);
  }

  CallStatus run() const { return cottention::backward<P>(args, workspace, nullptr, split); }

  /// Memory for the workspace.
  unsigned char* reserve(std::size_t bytes) {
    scratch.resize(bytes);
    return mirror.array(scratch.data(), static_cast<std::int64_t>(bytes));
  }

  /// The call is refused with this code and a reason that starts with `reason`; nothing is launched or
  /// written.
  void refuse(StatusCode code, const std::string& reason) {
#if __has_include(<emulation.hpp>)
    cottention::emulation::clear_statistics();
#endif
    const CallStatus status = run();
    INFO(status.reason);
    CHECK(status.code == code);
    CHECK(std::string(status.reason).substr(0, reason.size()) == reason);
#if __has_include(<emulation.hpp>)
    CHECK(cottention::emulation::launches().empty());
#endif
    mirror.download();
    const Gradient found = out.values();
    for (const auto* x : {&found.dq, &found.dk, &found.dv, &found.dscale_logit, &found.dinitial_state})
      CHECK(std::all_of(x->begin(), x->end(), [](double value) { return value != value; }));
  }
};

const Case plain{.shape = {2, 70, 70, 2, 1, 16, 24}, .initial_state = Presence::present};
const Case lengthy{.shape = {1, 1100, 1100, 1, 1, 16, 24}, .initial_state = Presence::present};

/// One after the other, `change` changes the arguments of a valid call.
template <class... Change>
void refuse_each(StatusCode code, const std::string& reason, Change... change) {
  const auto refuse = [&](auto one) {
    DeviceCall call(plain);
    one(call.args);
    call.refuse(code, reason);
  };
  (refuse(change), ...);
}

/// A gradient's values apart from dscale_logit, which is a sum over the batch.
bool same_but_for_scale_logit(Gradient a, Gradient b) {
  a.dscale_logit.clear();
  b.dscale_logit.clear();
  return same_bits(a, b);
}

}  // namespace

TEST_CASE("Backward on a device refuses null pointers of inputs, with the argument and the rule") {
  const auto code = StatusCode::null_pointer;
  refuse_each(code, "q.data = null", [](auto& args) { args.q.data = nullptr; });
  refuse_each(code, "k.data = null", [](auto& args) { args.k.data = nullptr; });
  refuse_each(code, "v.data = null", [](auto& args) { args.v.data = nullptr; });
  refuse_each(code, "dout.data = null", [](auto& args) { args.dout.data = nullptr; });
  refuse_each(code, "initial_state.h = null", [](auto& args) { args.initial_state.h = nullptr; });
  refuse_each(code, "initial_state.count = null", [](auto& args) { args.initial_state.count = nullptr; });
}

TEST_CASE("Backward on a device refuses misaligned pointers, with the argument and the rule") {
  const auto code = StatusCode::bad_option;
  // Shorter, so that what is moved ends within its memory.
  const auto moved = [](auto member) {
    return [=](auto& args) {
      ++(args.*member).data;
      args.shape.seq_q = args.shape.seq_k = 60;
    };
  };
  using Arguments = cottention::BackwardArguments<float>;
  refuse_each(code, "q.data = ", moved(&Arguments::q));
  refuse_each(code, "k.data = ", moved(&Arguments::k));
  refuse_each(code, "v.data = ", moved(&Arguments::v));
  refuse_each(code, "dout.data = ", moved(&Arguments::dout));
  refuse_each(code, "dq.data = ", moved(&Arguments::dq));
  refuse_each(code, "dk.data = ", moved(&Arguments::dk));
  refuse_each(code, "dv.data = ", moved(&Arguments::dv));
  const auto moved_state = [](auto member) {
    return [=](auto& args) {
      ++(args.*member);
      args.shape.batch = 1;
    };
  };
  refuse_each(code, "dfinal_state = ", moved_state(&Arguments::dfinal_state));
  refuse_each(code, "dinitial_state = ", moved_state(&Arguments::dinitial_state));
  refuse_each(code, "final_h = ", moved_state(&Arguments::final_h));
  refuse_each(code, "initial_state.h = ", [](auto& args) {
    ++args.initial_state.h;
    args.shape.batch = 1;
  });
}

TEST_CASE("Backward on a device refuses rows that are not multiples of 16 bytes apart") {
  const auto code = StatusCode::bad_stride;
  const auto apart = [](auto member, std::int64_t row) {
    return [=](auto& args) {
      args.shape.seq_q = args.shape.seq_k = 20;
      (args.*member).strides = {
          .batch = 20 * row, .seq = row, .head = args.shape.heads_q > 1 ? row / 2 : row};
    };
  };
  using Arguments = cottention::BackwardArguments<float>;
  refuse_each(code, "q.strides.", apart(&Arguments::q, 34));
  refuse_each(code, "k.strides.", apart(&Arguments::k, 17));
  refuse_each(code, "v.strides.", apart(&Arguments::v, 25));
  refuse_each(code, "dout.strides.", apart(&Arguments::dout, 50));
  refuse_each(code, "dq.strides.", apart(&Arguments::dq, 34));
  refuse_each(code, "dk.strides.", apart(&Arguments::dk, 17));
  refuse_each(code, "dv.strides.", apart(&Arguments::dv, 25));
}

TEST_CASE("Backward on a device refuses shapes that its kernels cannot count") {
  const auto code = StatusCode::bad_shape;
  refuse_each(code, "shape.dim_v = 16", [](auto& args) { args.shape.dim_v = 16; });
  refuse_each(code, "shape.seq_k = 69", [](auto& args) { args.shape.seq_k = 69; });
  refuse_each(code, "shape.heads_q = 3", [](auto& args) {
    args.shape.heads_q = 3;
    args.shape.heads_kv = 2;
  });
  refuse_each(code, "shape.seq_q = 2147483647: must be at most", [](auto& args) {
    args.shape.batch = args.shape.heads_q = args.shape.heads_kv = 1;
    args.shape.seq_q = args.shape.seq_k = (std::int64_t{1} << 31) - 1;
  });
}

TEST_CASE("Backward on a device refuses outputs in the memory of inputs or of each other") {
  const auto code = StatusCode::bad_stride;
  refuse_each(
      code, "", [](auto& args) { args.dk.data = args.dq.data; },
      [](auto& args) { args.dv.data = const_cast<float*>(args.v.data); },
      [](auto& args) { args.dinitial_state = const_cast<float*>(args.dfinal_state); },
      [](auto& args) { args.dinitial_state = const_cast<float*>(args.final_h); });
}

TEST_CASE("Backward on a device refuses a split that is out of range and a workspace that does not serve") {
  for (const int pieces : {-1, 65}) {
    DeviceCall call(plain);
    call.split.pieces = pieces;
    call.refuse(StatusCode::bad_option, "split.pieces = " + std::to_string(pieces));
  }
  DeviceCall call(lengthy);
  call.split.pieces = 2;
  const std::size_t bytes = cottention::workspace_bytes<P>(call.args, call.split);
  REQUIRE(bytes > 0);
  call.refuse(StatusCode::bad_workspace, "workspace.data = null");
  unsigned char* const memory = call.reserve(bytes + 256);
  call.workspace = {memory, bytes - 1};
  call.refuse(StatusCode::bad_workspace, "workspace.bytes = ");
  call.workspace = {memory + 64, bytes};
  call.refuse(StatusCode::bad_workspace, "workspace.data = ");
  call.workspace = {memory, bytes};
  CHECK(call.run().ok());
}

TEST_CASE(
    "The workspace of backward does not depend on pointers, and is 0 for arguments that will be refused") {
  DeviceCall call(lengthy);
  cottention::BackwardArguments<float> args;
  args.shape = lengthy.shape;
  for (const int pieces : {0, 1, 2})
    CHECK(cottention::workspace_bytes<P>(args, {pieces}) >=
          cottention::workspace_bytes<P>(call.args, {pieces}));
  CHECK(cottention::workspace_bytes<P>(args, {65}) == 0);
  args.shape.dim_v = 16;
  CHECK(cottention::workspace_bytes<P>(args, {2}) == 0);
  constexpr std::int64_t many = std::int64_t{1} << 30;
  args.shape = Extents{2, many, many, many, 1, 16, 24};
  CHECK(cottention::workspace_bytes<Everything>(args) == 0);
  args.shape = Extents{1, many, many, many / 2, 1, 16, 24};
  CHECK(cottention::workspace_bytes<Everything>(args) == 0);
}

TEST_CASE("Backward with a device workspace that grows gives what it gives with one of the caller's") {
  DeviceCall expected(lengthy), call(lengthy);
  std::size_t bytes = 0;
  REQUIRE(cottention::workspace_bytes<P>(call.args, bytes, {2}).ok());
  expected.split = {2};
  expected.workspace = {expected.reserve(bytes), bytes};
  REQUIRE(expected.run().ok());
  expected.mirror.download();
  cottention::DeviceWorkspace workspace;
  REQUIRE(cottention::backward<P>(call.args, workspace, nullptr, {2}).ok());
  call.mirror.download();
  CHECK(same_bits(call.out.values(), expected.out.values()));
  CHECK(workspace.bytes() == bytes);
}

#if __has_include(<emulation.hpp>)
TEST_CASE("Backward is refused where its kernels do not run") {
  DeviceCall call(plain);
  const std::size_t bytes = cottention::workspace_bytes<P>(call.args);
  call.workspace = {call.reserve(bytes), bytes};
  check_refused_without_code([&] { return call.run(); });
}

TEST_CASE("Backward asks about a device and its kernels once") {
  DeviceCall call(plain);
  const std::size_t bytes = cottention::workspace_bytes<P>(call.args);
  call.workspace = {call.reserve(bytes), bytes};
  check_asks_once([&] { return call.run(); });
}
#endif

TEST_CASE("Backward of an empty problem succeeds") {
  cottention::BackwardArguments<float> args;
  for (const Extents shape :
       {Extents{0, 3, 3, 2, 1, 16, 24}, {2, 0, 0, 2, 1, 16, 24}, {2, 3, 3, 0, 0, 16, 24}}) {
    args.shape = shape;
    CHECK(cottention::backward<P>(args, {}, nullptr).ok());
  }
}

TEST_CASE("Two calls of backward on sequences in pieces give the same bits") {
  const Inputs<float> inputs(lengthy);
  for (const int pieces : {0, 1, 3}) {
    INFO("pieces " << pieces);
    CHECK(same_bits(run_cuda_backward<P>(inputs.backward(), {.split = {pieces}}),
                    run_cuda_backward<P>(inputs.backward(), {.split = {pieces}})));
  }
}

TEST_CASE(
    "Under the batch-invariant plan a sequence's gradients alone have the bits that they have in a batch") {
  const auto check = []<class Q>(Case c, Presence final_h) {
    using T = typename Q::element;
    c.mask = Q::mask;
    c.shape.dim_qk = Q::head_dim.qk;
    c.shape.dim_v = Q::head_dim.v;
    const Inputs<T> inputs(c);
    const std::vector<float> final_state = final_h_of(inputs);
    auto args = inputs.backward();
    args.plan = Plan::batch_invariant;
    const auto with_state = [&](auto of, std::int64_t b) {
      const std::int64_t state = c.shape.heads_kv * Q::head_dim.qk * Q::head_dim.v;
      if (final_h == Presence::present) of.final_h = final_state.data() + b * state;
      return of;
    };
    const Gradient together = run_cuda_backward<Q>(with_state(args, 0));
    for (std::int64_t b = 0; b < inputs.shape().batch; ++b) {
      const Gradient alone = run_cuda_backward<Q>(with_state(sequence(args, b), b));
      INFO(describe<T>(inputs.description()) << ", sequence " << b);
      CHECK(same_but_for_scale_logit(alone, sequence_of(together, inputs, b)));
    }
  };
  const Case batch{.shape = {2, 600, 600, 2, 1, 16, 24}, .initial_state = Presence::present};
  const Case packed{.shape = {.heads_q = 1, .heads_kv = 1, .dim_qk = 16, .dim_v = 24},
                    .lengths_q = {300, 5, 0, 900},
                    .initial_state = Presence::present};
  check.operator()<P>(batch, Presence::absent);
  check.operator()<P>(batch, Presence::present);
  check.operator()<P>(packed, Presence::absent);
  using Joint = Problem<cottention::bfloat16, HeadDim{16, 16}, Mask::causal, Scale::by_key>;
  const Case brief{.shape = {3, 100, 100, 2, 2, 16, 16}, .initial_state = Presence::present};
  for (const Presence final_h : {Presence::absent, Presence::present}) {
    check.operator()<Joint>(brief, final_h);
    check.operator()<Joint>(batch, final_h);
  }
  check.operator()<Joint>(packed, Presence::absent);
  check.operator()<Everything>(batch, Presence::present);
  check.operator()<Everything>(packed, Presence::absent);
}

namespace {

/// L = sum of o * dout + sum of final h * dfinal_state, by the CUDA forward.
template <class Q>
double loss(const cottention::BackwardArguments<double>& args) {
  cottention::ForwardArguments<double> forward;
  forward.shape = args.shape;
  forward.q = args.q;
  forward.k = args.k;
  forward.v = args.v;
  forward.scale_logit = args.scale_logit;
  forward.initial_state = args.initial_state;
  const Output out = run_cuda_forward<Q>(forward);
  double sum = 0;
  for (std::size_t i = 0; i < out.o.size(); ++i) sum += out.o[i] * args.dout.data[i];
  for (std::size_t i = 0; i < out.h.size(); ++i) sum += out.h[i] * args.dfinal_state[i];
  return sum;
}

/// Checks the derivative of L along a direction, by central differences, against `slope`. `move(x)` puts the
/// inputs x times the direction away from where they were.
template <class Q, class Move>
void check_slope(const char* name, const cottention::BackwardArguments<double>& args, double width,
                 double bound, double slope, Move move) {
  move(width);
  const double above = loss<Q>(args);
  move(-width);
  const double below = loss<Q>(args);
  move(0);
  INFO(name << ": " << slope << " by backward, " << (above - below) / (2 * width) << " by differences");
  CHECK(std::fabs((above - below) / (2 * width) - slope) <= bound * std::fabs(slope));
}

}  // namespace

TEST_CASE("Backward gives the derivatives of forward, by finite differences in double") {
  const auto check = []<class Q>(Presence final_h) {
    const Case c{.mask = Q::mask,
                 .scale = Q::scale,
                 .shape = {1, 21, 21, 2, 1, 16, 24},
                 .initial_state = Presence::present};
    Inputs<double> inputs(c);
    INFO(describe<double>(c));
    auto args = inputs.backward();
    inputs.scale_logit().front() = 1.0 / 3;  // no float: one would miss the bounds
    const Output output = run_cuda_forward<Q>(inputs.forward());
    check_output(inputs, output);
    if (final_h == Presence::present) args.final_h = output.h.data();
    const Gradient gradient = run_cuda_backward<Q>(args);
    check_gradient(inputs, gradient);

    Random random(7);
    const auto along_random = [&](const char* name, double* values, const std::vector<double>& slopes) {
      const std::vector<double> start(values, values + slopes.size());
      std::vector<double> direction;
      double slope = 0;
      for (const double of_value : slopes) {
        direction.push_back(random.normal());
        slope += of_value * direction.back();
      }
      // The error is of third order in the width, about 1e-9 of the slope; rounding leaves 1e-11.
      check_slope<Q>(name, args, 1e-5, 1e-7, slope, [&](double by) {
        for (std::size_t i = 0; i < start.size(); ++i) values[i] = start[i] + by * direction[i];
      });
    };
    along_random("q", inputs.q().row(0, 0), gradient.dq);
    along_random("k", inputs.k().row(0, 0), gradient.dk);
    along_random("v", inputs.v().row(0, 0), gradient.dv);
    along_random("initial state", inputs.initial_state().data(), gradient.dinitial_state);
    along_random("m", inputs.scale_logit().data(), gradient.dscale_logit);
  };
  check.operator()<Problem<double, HeadDim{16, 24}, Mask::causal, Scale::by_key>>(Presence::present);
  check.operator()<Problem<double, HeadDim{16, 24}, Mask::causal, Scale::by_query>>(Presence::absent);
  check.operator()<Problem<double, HeadDim{16, 24}, Mask::bidirectional, Scale::by_key>>(Presence::absent);
}

TEST_CASE("m may be float beside elements in double, with the bits of the same m in double") {
  using Q = Problem<double, HeadDim{16, 24}, Mask::causal, Scale::by_key>;
  const Case c{.mask = Q::mask, .scale = Q::scale, .shape = {1, 21, 21, 4, 2, 16, 24}};
  Inputs<double> inputs(c);
  std::vector<float> m;
  for (double& x : inputs.scale_logit()) {
    m.push_back(static_cast<float>(x));
    x = static_cast<double>(m.back());
  }
  auto forward_args = inputs.forward();
  auto backward_args = inputs.backward();
  const Output output = run_cuda_forward<Q>(forward_args);
  const Gradient gradient = run_cuda_backward<Q>(backward_args);
  check_output(inputs, output);
  check_gradient(inputs, gradient);
  forward_args.scale_logit = m.data();
  backward_args.scale_logit = m.data();
  CHECK(same_bits(run_cuda_forward<Q>(forward_args), output));
  CHECK(same_bits(run_cuda_backward<Q>(backward_args), gradient));
}
