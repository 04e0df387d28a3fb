// Corners of the CPU backend's calls: workspaces, executions, values at the ends of the range.
#include <algorithm>
#include <array>
#include <cfenv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include <cottention/cpu.hpp>
#include <cottention/reference.hpp>

#include "support/catch.hpp"
#include "support/error.hpp"
#include "support/executor.hpp"

namespace cottention::test {
namespace {

using Causal = Problem<float, any_head_dim, Mask::causal, Scale::by_key>;

class Scratch {
 public:
  explicit Scratch(std::size_t bytes)
      : memory_(bytes + workspace_alignment, std::byte{0xff}), bytes_(bytes) {}
  operator Workspace() {
    void* aligned = memory_.data();
    std::size_t left = memory_.size();
    std::align(workspace_alignment, bytes_, aligned, left);
    return {aligned, bytes_};
  }

 private:
  std::vector<std::byte> memory_;
  std::size_t bytes_;
};

TEST_CASE("A workspace can be sized before any pointer is set, and its size does not follow the length") {
  for (const int threads : {1, 2, 16}) {
    const cpu::Execution execution = support::executor(threads);
    const auto sizes = [&](std::int64_t batch, std::int64_t seq, std::int64_t heads) {
      const Shape shape{batch, seq, seq, heads, heads, 64, 64};
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
  const StepArguments<float> step{.shape = {256, 1, 1, 16, 16, 64, 64}, .pool_slots = 256};
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
  CHECK(cpu::forward<Causal>({.shape = {0, 5, 5, 2, 2, 8, 8}}, none).ok());
  CHECK(cpu::forward<Causal>({.shape = {3, 5, 5, 0, 0, 8, 8}}, none).ok());
  CHECK(cpu::backward<Causal>({.shape = {0, 5, 5, 2, 2, 8, 8}}, none).ok());
  CHECK(cpu::backward<Causal>({.shape = {2, 5, 5, 2, 2, 8, 8}}, none).ok());  // no gradient is wanted
  CHECK(cpu::step<Causal>({.shape = {0, 1, 1, 2, 2, 8, 8}}, none).ok());
}

TEST_CASE("An execution that cannot be is refused by every call") {
  const Shape shape{0, 1, 1, 1, 1, 8, 8};
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
  float h[64] = {}, row[8] = {}, o[8];
  std::int64_t count = (std::int64_t{1} << 62) + 1;
  const CallStatus forward = cpu::forward<Causal>({.shape = {1, 1, 1, 1, 1, 8, 8},
                                                   .q = {row},
                                                   .k = {row},
                                                   .v = {row},
                                                   .o = {o},
                                                   .initial_state = {h, &count}},
                                                  {});
  CHECK(std::string(forward.reason) == "initial_state.count[0] = 4611686018427387905: must be at most 2^62");
  const StepArguments<float> args{.shape = {1, 1, 1, 1, 1, 8, 8},
                                  .q = {row},
                                  .k = {row},
                                  .v = {row},
                                  .o = {o},
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
  const BackwardArguments<float> args{.shape = {1, seq, seq, 0, 1, dim, dim},
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
      std::vector<float> q(seq * dim), k(seq * dim), v(seq * dim), o(seq * dim);
      for (std::size_t i = 0; i < k.size(); ++i) {
        q[i] = std::sin(static_cast<float>(i));
        k[i] = std::sin(static_cast<float>(5 * i)) * length;
        v[i] = std::cos(static_cast<float>(3 * i)) * size;
      }
      const ForwardArguments<float> args{.shape = {1, seq, seq, 1, 1, dim, dim},
                                         .q = {q.data()},
                                         .k = {k.data()},
                                         .v = {v.data()},
                                         .o = {o.data()}};
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
