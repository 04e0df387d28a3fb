// Gradients through the norm at the ends of its range, by the kernels that fuse it and by those that do not.
#include <cstdint>
#include <limits>
#include <vector>

#include <cottention/owned_workspace.cuh>

#include "support/catch.hpp"
#include "support/cuda_backward.hpp"

using cottention::HeadDim, cottention::Mask, cottention::Problem, cottention::Scale;
using namespace support;

namespace {

/// dq of one query, all of whose elements are `q`, with v = 0, g = (1, 0, ...), and an initial state whose
/// elements in row i are h(i).
template <class P, class State>
std::vector<typename P::element> dq_of_one(double q, State h) {
  using T = typename P::element;
  using A = typename P::accumulate;
  constexpr std::int64_t qk = P::head_dim.qk, v = P::head_dim.v;
  const std::vector<T> qs(qk, static_cast<T>(q)), ks(qk, T{1}), vs(v, T{0});
  std::vector<T> g(v, T{0}), dq(qk, T{-1});
  g[0] = T{1};
  std::vector<A> state;
  for (std::int64_t i = 0; i < qk; ++i) state.insert(state.end(), v, static_cast<A>(h(i)));
  const std::int64_t count = 1;
  cottention::BackwardArguments<T> args;
  args.shape = {.batch = 1, .seq_q = 1, .seq_k = 1, .heads_q = 1, .heads_kv = 1, .dim_qk = qk, .dim_v = v};
  args.q.data = qs.data();
  args.k.data = ks.data();
  args.v.data = vs.data();
  args.dout.data = g.data();
  args.dq.data = dq.data();
  args.initial_state = {state.data(), &count};
  Mirror mirror;
  const auto device_args = mirrored(mirror, args);
  cottention::DeviceWorkspace workspace;
  REQUIRE(cottention::backward<P>(device_args, workspace, nullptr).ok());
  mirror.download();
  return dq;
}

/// Where ||q|| <= eps, dq = H g / eps, however large that is and whatever its other elements are.
template <class P>
void check_clamped(double tiny, double large) {
  using T = typename P::element;
  for (const T x : dq_of_one<P>(tiny, [large](std::int64_t) { return large; }))
    CHECK(static_cast<double>(x) == Approx(large * 1e12).epsilon(1e-6));
  const auto dq = dq_of_one<P>(0, [large](std::int64_t i) { return i == 3 ? large * 1e13 : 0.0; });
  for (std::size_t i = 0; i < dq.size(); ++i) {
    CAPTURE(i);
    CHECK(dq[i] == (i == 3 ? std::numeric_limits<T>::infinity() : T{0}));
  }
}

}  // namespace

TEST_CASE("A query of norm at most eps has the gradient of a linear norm, to the end of its type's range") {
  check_clamped<Problem<float, HeadDim{64, 64}, Mask::causal, Scale::none>>(1e-30, 1e25);
  check_clamped<Problem<float, HeadDim{256, 64}, Mask::causal, Scale::none>>(1e-30, 1e25);
  check_clamped<Problem<float, HeadDim{256, 64}, Mask::bidirectional, Scale::none>>(1e-30, 1e25);
  check_clamped<Problem<double, HeadDim{256, 64}, Mask::causal, Scale::none>>(1e-70, 1e295);
}
