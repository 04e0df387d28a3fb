// Corners of the CPU backend's calls: workspaces, executions, values at the ends of the range.
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <cottention/cpu.hpp>
#include <cottention/reference.hpp>

#include "support/catch.hpp"
#include "support/error.hpp"
#include "support/executor.hpp"
#include "support/extents.hpp"

namespace cottention::test {
namespace {

using support::Extents;

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
