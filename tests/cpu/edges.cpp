// Corners of the CPU backend's calls: workspaces, executions, values at the ends of the range.
#include <algorithm>
#include <array>
#include <cfenv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include <cottention/cpu.hpp>
#include <cottention/owned_workspace.hpp>
#include <cottention/reference.hpp>

#include "support/catch.hpp"
#include "support/error.hpp"
#include "support/executor.hpp"
#include "support/extents.hpp"
#include "support/small_calls.hpp"

namespace {
std::size_t most_bytes = std::numeric_limits<std::size_t>::max();
int allocations = 0;
}  // namespace

// What HostWorkspace allocates by: counted, and null above `most_bytes`.
void* operator new(std::size_t bytes, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  const auto unit = static_cast<std::size_t>(alignment);
  if (bytes > most_bytes) return nullptr;
  ++allocations;
  return std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit);
}
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }

namespace cottention::test {
namespace {

using support::Extents, support::Scratch, support::SmallCalls;

using Causal = Problem<float, any_head_dim, Mask::causal, Scale::by_key>;

TEST_CASE("A workspace can be sized before any pointer is set, and its size does not follow the length") {
  for (const int threads : {1, 2, 16}) {
    const cpu::Execution execution = support::executor(threads);
    const auto sizes = [&](std::int64_t batch, std::int64_t seq, std::int64_t heads) {
      const Shape shape = Extents{batch, seq, seq, heads, heads, 64, 64};
      return std::array{cpu::workspace_bytes<Causal>(ForwardArguments<float>{.shape = shape}, execution),
                        cpu::workspace_bytes<Causal>(BackwardArguments<float>{.shape = shape}, execution)};
    };
    const auto first = sizes(1, 1, 1);
    CHECK(first[0] > 0);
    CHECK(first[1] > 0);
    for (const std::int64_t seq : {64, 1024, 131'072, 10'000'000}) CHECK(sizes(1, seq, 1) == first);
    // enough for more is enough for less
    for (std::size_t call = 0; call < 2; ++call)
      for (std::int64_t n = 1; n < 40; ++n) {
        CHECK(sizes(n, 100, 3)[call] <= sizes(n + 1, 100, 3)[call]);
        CHECK(sizes(2, 100, n)[call] <= sizes(2, 100, n + 1)[call]);
      }
  }
  const StepArguments<float> step{.shape = Extents{256, 1, 1, 16, 16, 64, 64}, .pool_slots = 256};
  CHECK(cpu::workspace_bytes<Causal>(step, support::executor(1)) > 0);
  CHECK(cpu::workspace_bytes<Causal>(step, support::executor(1)) <
        cpu::workspace_bytes<Causal>(step, support::executor(2)));
}

TEST_CASE("What is refused needs no workspace, and sizes do not overflow") {
  constexpr std::int64_t one = 1;
  const auto none = [](const Shape& shape, const cpu::Execution& execution = support::executor(2)) {
    CHECK(cpu::workspace_bytes<Causal>(ForwardArguments<float>{.shape = shape}, execution) == 0);
    CHECK(cpu::workspace_bytes<Causal>(BackwardArguments<float>{.shape = shape}, execution) == 0);
    CHECK(cpu::workspace_bytes<Causal>(StepArguments<float>{.shape = shape, .pool_slots = shape.batch},
                                       execution) == 0);
  };
  none({one << 40, one << 20, one << 20, 64, 64, 64, 64});
  none({one << 62, 1, 1, 8, 8, 64, 64});
  none({1, one << 62, one << 62, 1, 1, 64, 64});
  none({1, 1, 1, one << 62, one << 62, 64, 64});
  none({one << 29, 1, 1, one << 29, one << 29, 1, 1});
  none({one << 62, 0, 0, one << 62, one << 62, 1, 1});
  none({1, 1, 1, 1, 1, 64, 65'537});

  const Shape wide{1, 1, 1, 1, 1, 65'536, 65'536};
  CHECK(cpu::workspace_bytes<Causal>(ForwardArguments<float>{.shape = wide}) > 0);
  const cpu::Execution most = support::executor(std::numeric_limits<int>::max(), support::Order::sequential);
  CHECK(cpu::workspace_bytes<Causal>(ForwardArguments<float>{.shape = wide}, most) == 0);  // 2^67 bytes
  std::vector<float> row(65'536);
  const Tensor<const float> in{row.data(), {0, 0, 0}};
  std::vector<float> out(65'536);
  const ForwardArguments<float> args{.shape = wide, .q = in, .k = in, .v = in, .o = {out.data()}};
  CHECK(std::string(
            cpu::forward<Problem<float, any_head_dim, Mask::causal, Scale::none>>(args, {}, most).reason) ==
        "execution.threads = 2147483647: the workspace for so many threads and this shape would pass 2^57 "
        "bytes");
  const Shape narrow{1, 64, 64, 1, 1, 16, 16};
  const auto bytes = [&](int threads) {
    return cpu::workspace_bytes<Causal>(ForwardArguments<float>{.shape = narrow},
                                        support::executor(threads, support::Order::sequential));
  };
  CHECK(bytes(std::numeric_limits<int>::max()) > bytes(1 << 20));
  CHECK(bytes(1 << 20) > bytes(1 << 10));
}

TEST_CASE("A workspace that was sized for fewer threads is refused, with threads as the reason") {
  std::vector<float> x(64 * 16), o(64 * 16);
  const Tensor<const float> in{x.data()};
  const float m = 0.5f;
  const ForwardArguments<float> args{
      .shape = {1, 64, 64, 1, 1, 16, 16}, .q = in, .k = in, .v = in, .o = {o.data()}, .scale_logit = &m};
  const std::size_t one = cpu::workspace_bytes<Causal>(args, support::executor(1));
  const std::size_t four = cpu::workspace_bytes<Causal>(args, support::executor(4));
  Scratch scratch(one);
  CHECK(cpu::forward<Causal>(args, scratch, support::executor(4)).reason ==
        "workspace.bytes = " + std::to_string(one) + ": must be at least " + std::to_string(four) +
            " for the 4 threads of this call's execution; was it sized for fewer?");
}

#if !defined(__clang__)  // does not keep to floating-point exceptions
TEST_CASE("A learned scalar of any size overflows nothing") {
  std::vector<float> x(20 * 16), o(20 * 16), dk(20 * 16);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i));
  const Tensor<const float> in{x.data()};
  for (const float m : {-1e30f, -1000.f, -100.f, 100.f, 1000.f, 1e30f}) {
    float dm = 0;
    const Shape shape{1, 20, 20, 1, 1, 16, 16};
    const ForwardArguments<float> forward{
        .shape = shape, .q = in, .k = in, .v = in, .o = {o.data()}, .scale_logit = &m};
    const BackwardArguments<float> backward{.shape = shape,
                                            .q = in,
                                            .k = in,
                                            .v = in,
                                            .dout = in,
                                            .dk = {dk.data()},
                                            .scale_logit = &m,
                                            .dscale_logit = &dm};
    Scratch scratch(std::max(cpu::workspace_bytes<Causal>(forward, {.threads = 1}),
                             cpu::workspace_bytes<Causal>(backward, {.threads = 1})));
    std::feclearexcept(FE_ALL_EXCEPT);
    REQUIRE(cpu::forward<Causal>(forward, scratch, {.threads = 1}).ok());
    REQUIRE(cpu::backward<Causal>(backward, scratch, {.threads = 1}).ok());
    CHECK(std::fetestexcept(FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW) == 0);
    CHECK(std::isfinite(o.back()));
    CHECK(std::isfinite(dm));
  }
}
#endif

TEST_CASE("The child of a fork computes on a caller's threads after OpenMP was used") {
#if defined(__SANITIZE_THREAD__)
  SUCCEED("ThreadSanitizer does not follow forks of several threads");
#else
  constexpr std::int64_t seq = 1024;
  std::vector<float> x(seq * 16), o(seq * 16), again(seq * 16);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i));
  const Tensor<const float> in{x.data()};
  const float m = 0.5f;
  ForwardArguments<float> args{
      .shape = {1, seq, seq, 1, 1, 16, 16}, .q = in, .k = in, .v = in, .o = {o.data()}, .scale_logit = &m};
  Scratch scratch(cpu::workspace_bytes<Causal>(args, {.threads = 4}));
  REQUIRE(cpu::forward<Causal>(args, scratch, {.threads = 4}).ok());
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    alarm(60);  // rather than hang
    args.o.data = again.data();
    bool ok = cpu::forward<Causal>(args, scratch, support::executor(4)).ok() && again == o;
    again.assign(again.size(), 0);
    ok = ok && cpu::forward<Causal>(args, scratch, {.threads = 1}).ok() && again == o;
    _exit(ok ? 0 : 1);
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
#endif
}

TEST_CASE("Empty problems need no workspace") {
  const Workspace none{};
  CHECK(cpu::forward<Causal>({.shape = Extents{0, 5, 5, 2, 2, 8, 8}}, none).ok());
  CHECK(cpu::forward<Causal>({.shape = Extents{3, 5, 5, 0, 0, 8, 8}}, none).ok());
  CHECK(cpu::backward<Causal>({.shape = Extents{0, 5, 5, 2, 2, 8, 8}}, none).ok());
  CHECK(cpu::backward<Causal>({.shape = Extents{2, 5, 5, 2, 2, 8, 8}}, none).ok());  // no gradient is wanted
  CHECK(cpu::step<Causal>({.shape = Extents{0, 1, 1, 2, 2, 8, 8}}, none).ok());
}

TEST_CASE("workspace_bytes tells what needs nothing from what is refused") {
  const auto check = [](auto args) {
    std::size_t bytes = 1;
    CHECK(std::string(cpu::workspace_bytes<Causal>(args, bytes).reason) == "");
    CHECK(bytes == 0);
    args.shape.batch = 2;
    CHECK(cpu::workspace_bytes<Causal>(args, bytes).ok());
    CHECK(bytes > 0);
    CHECK(bytes == cpu::workspace_bytes<Causal>(args));
    CHECK(std::string(cpu::workspace_bytes<Causal>(args, bytes, {.threads = -1}).reason) ==
          "execution.threads = -1: must be at least 0");
    CHECK(bytes == 0);
    bytes = 1;
    args.shape.dim_v = 0;
    CHECK(std::string(cpu::workspace_bytes<Causal>(args, bytes).reason) ==
          "shape.dim_v = 0: must be at least 1");
    CHECK(bytes == 0);
  };
  const Shape empty = Extents{0, 5, 5, 2, 2, 8, 8};
  check(ForwardArguments<float>{.shape = empty});
  check(BackwardArguments<float>{.shape = empty});
  check(StepArguments<float>{.shape = empty});
}

TEST_CASE("Step of lanes that have no heads looks at slots within its workspace alone") {
  const std::int32_t slot[] = {0, 1};
  std::int64_t count[] = {0, 0};
  StepArguments<float> args{.shape = Extents{2, 1, 1, 0, 0, 8, 8}, .pool_slots = 2};
  args.slot = slot;
  args.pool.count = count;
  CHECK(cpu::step<Causal>(args, {}).code == StatusCode::bad_workspace);
  Scratch scratch(cpu::workspace_bytes<Causal>(args));
  CHECK(std::string(cpu::step<Causal>(args, scratch).reason) == "");
}

TEST_CASE("Calls with a workspace that grows give what they give with one of the caller's") {
  SmallCalls expected, got;
  Scratch scratch(std::size_t{1} << 20);
  REQUIRE(cpu::forward<Causal>(expected.forward(), scratch).ok());
  REQUIRE(cpu::backward<Causal>(expected.backward(), scratch).ok());
  REQUIRE(cpu::step<Causal>(expected.step(), scratch).ok());
  HostWorkspace workspace;
  const auto check = [&](const CallStatus& status, std::size_t needed) {
    CHECK(std::string(status.reason) == "");
    CHECK(workspace.bytes() >= needed);
    CHECK(workspace.get().bytes == workspace.bytes());
    CHECK(reinterpret_cast<std::uintptr_t>(workspace.get().data) % workspace_alignment == 0);
  };
  check(cpu::step<Causal>(got.step(), workspace), cpu::workspace_bytes<Causal>(got.step()));
  check(cpu::forward<Causal>(got.forward(), workspace), cpu::workspace_bytes<Causal>(got.forward()));
  check(cpu::backward<Causal>(got.backward(), workspace), cpu::workspace_bytes<Causal>(got.backward()));
  CHECK(got.o == expected.o);
  CHECK(got.dq == expected.dq);
  CHECK(got.stepped == expected.stepped);
  // Nothing more is allocated by calls that it has room for, or that are refused.
  const int before = allocations;
  CHECK(cpu::forward<Causal>(got.forward(), workspace).ok());
  HostWorkspace empty;
  auto args = got.forward();
  args.q.data = nullptr;
  CHECK(cpu::forward<Causal>(args, empty).code == StatusCode::null_pointer);
  args.shape.dim_qk = 0;
  CHECK(cpu::forward<Causal>(args, empty).code == StatusCode::bad_shape);
  CHECK(cpu::forward<Causal>(got.forward(), empty, {.threads = -1}).code == StatusCode::bad_option);
  args.shape = Extents{0, 1, 1, 1, 1, 8, 8};
  CHECK(cpu::forward<Causal>(args, empty).ok());
  CHECK(allocations == before);
}

TEST_CASE("A workspace grows by half at least, moves, and says when there is no memory") {
  HostWorkspace workspace;
  REQUIRE(workspace.reserve(1000).ok());
  CHECK(workspace.bytes() == 1000);
  const int first = allocations;
  REQUIRE(workspace.reserve(500).ok());
  CHECK(allocations == first);
  REQUIRE(workspace.reserve(1001).ok());
  CHECK(workspace.bytes() == 1500);
  REQUIRE(workspace.reserve(9000).ok());
  CHECK(workspace.bytes() == 9000);

  void* const data = workspace.get().data;
  HostWorkspace other = std::move(workspace);
  CHECK(other.get().data == data);
  CHECK(workspace.get().data == nullptr);
  CHECK(workspace.bytes() == 0);
  REQUIRE(workspace.reserve(10).ok());
  workspace = std::move(other);
  CHECK(workspace.get().data == data);
  CHECK(other.bytes() == 0);

  most_bytes = 10'000;  // not enough for half as much again
  CHECK(workspace.reserve(10'000).ok());
  CHECK(workspace.bytes() == 10'000);
  const CallStatus status = workspace.reserve(10'001);
  CHECK(status.code == StatusCode::bad_workspace);
  CHECK(std::string(status.reason) == "workspace: there is no memory for 10001 bytes");
  CHECK(workspace.bytes() == 0);
  most_bytes = 100;
  SmallCalls calls;
  CHECK(cpu::forward<Causal>(calls.forward(), workspace).code == StatusCode::bad_workspace);
  most_bytes = std::numeric_limits<std::size_t>::max();
  CHECK(cpu::forward<Causal>(calls.forward(), workspace).ok());
}

TEST_CASE("Dispatch serves the CPU: elements by their names, any head dimensions") {
  using Compiled =
      ProblemProduct<Elements<float>, HeadDims<any_head_dim>, Masks<Mask::causal>, Scales<Scale::by_key>>;
  SmallCalls expected, got;
  HostWorkspace workspace;
  REQUIRE(cpu::forward<Causal>(expected.forward(), workspace).ok());
  RuntimeProblem wanted{.dim_qk = 8, .dim_v = 8, .mask = Mask::causal, .scale = Scale::by_key};
  const auto forward = [&](const char* element) {
    if (CallStatus status = parse_element(element, wanted.element); !status) return status;
    return dispatch<Compiled>(wanted, [&]<class P>() { return cpu::forward<P>(got.forward(), workspace); });
  };
  CHECK(forward("int8").code == StatusCode::bad_option);
  CHECK(forward("torch.bfloat16").code == StatusCode::unsupported);
  CHECK(forward("torch.float32").ok());
  CHECK(got.o == expected.o);
}

TEST_CASE("An execution that cannot be is refused by every call") {
  const Shape shape = Extents{0, 1, 1, 1, 1, 8, 8};
  const auto each = [&](const cpu::Execution& execution, const std::string& reason) {
    CHECK(cpu::forward<Causal>({.shape = shape}, {}, execution).reason == reason);
    CHECK(cpu::backward<Causal>({.shape = shape}, {}, execution).reason == reason);
    CHECK(cpu::step<Causal>({.shape = shape}, {}, execution).reason == reason);
  };
  each({.threads = -1}, "execution.threads = -1: must be at least 0");
  each(support::executor(0), "execution.threads = 0: must be at least 1 when execution.run is given");
  each(support::executor(1), "");
}

TEST_CASE("Counts that could overflow are refused") {
  float h[64] = {}, row[8] = {}, o[8], m = 0;
  std::int64_t count = (std::int64_t{1} << 62) + 1;
  const CallStatus forward = cpu::forward<Causal>({.shape = Extents{1, 1, 1, 1, 1, 8, 8},
                                                   .q = {row},
                                                   .k = {row},
                                                   .v = {row},
                                                   .o = {o},
                                                   .scale_logit = &m,
                                                   .initial_state = {h, &count}},
                                                  {});
  CHECK(std::string(forward.reason) == "initial_state.count[0] = 4611686018427387905: must be at most 2^62");
  const StepArguments<float> args{.shape = Extents{1, 1, 1, 1, 1, 8, 8},
                                  .q = {row},
                                  .k = {row},
                                  .v = {row},
                                  .o = {o},
                                  .scale_logit = &m,
                                  .pool = {h, &count},
                                  .pool_slots = 1};
  Scratch scratch(cpu::workspace_bytes<Causal>(args));
  const CallStatus step = cpu::step<Causal>(args, scratch);
  CHECK(std::string(step.reason) == "pool.count[0] = 4611686018427387905: must be at most 2^62");
}

TEST_CASE("Keys and values without query heads still get gradients from the final state") {
  constexpr std::int64_t seq = 70, dim = 8;
  std::vector<float> k(seq * dim), v(seq * dim), dk(seq * dim, -7), dv(seq * dim, -7), dfinal(dim * dim);
  for (std::size_t i = 0; i < k.size(); ++i) {
    k[i] = std::sin(static_cast<float>(i));
    v[i] = std::cos(static_cast<float>(3 * i));
  }
  for (std::size_t i = 0; i < dfinal.size(); ++i) dfinal[i] = std::sin(static_cast<float>(7 * i));
  const float m = 0.5f;
  const BackwardArguments<float> args{.shape = Extents{1, seq, seq, 0, 1, dim, dim},
                                      .k = {k.data()},
                                      .v = {v.data()},
                                      .dk = {dk.data()},
                                      .dv = {dv.data()},
                                      .scale_logit = &m,
                                      .dfinal_state = dfinal.data()};
  Scratch scratch(cpu::workspace_bytes<Causal>(args));
  const CallStatus status = cpu::backward<Causal>(args, scratch);
  REQUIRE(std::string(status.reason) == "");
  const auto expected = reference::backward<Causal>(args);
  CHECK(support::relative_error({dk.begin(), dk.end()}, expected.dk) < support::bounds<float>.gradient);
  CHECK(support::relative_error({dv.begin(), dv.end()}, expected.dv) < support::bounds<float>.gradient);
}

TEST_CASE("Lengths of keys and sizes of values at opposite ends of the range do not meet") {
  for (const float length : {1e-25f, 1e-11f, 1e-5f, 1.0f, 1e5f, 1e25f, 1e37f})
    for (const float size : {1e-34f, 1.0f, 1e34f}) {
      CAPTURE(length, size);
      constexpr std::int64_t seq = 40, dim = 4;
      const float m = 0;
      std::vector<float> q(seq * dim), k(seq * dim), v(seq * dim), o(seq * dim);
      for (std::size_t i = 0; i < k.size(); ++i) {
        q[i] = std::sin(static_cast<float>(i));
        k[i] = std::sin(static_cast<float>(5 * i)) * length;
        v[i] = std::cos(static_cast<float>(3 * i)) * size;
      }
      const ForwardArguments<float> args{.shape = Extents{1, seq, seq, 1, 1, dim, dim},
                                         .q = {q.data()},
                                         .k = {k.data()},
                                         .v = {v.data()},
                                         .o = {o.data()},
                                         .scale_logit = &m};
      Scratch scratch(cpu::workspace_bytes<Causal>(args));
      const CallStatus status = cpu::forward<Causal>(args, scratch);
      REQUIRE(status.ok());
      // values near 1e-34 times norms of 1e-13 are subnormal in fp32, so there only the size is asked for
      if (length < 1e-20f && size < 1e-30f) continue;
      CHECK(support::relative_error({o.begin(), o.end()}, reference::forward<Causal>(args).o) <
            support::bounds<float>.forward);
    }
}

}  // namespace
}  // namespace cottention::test
