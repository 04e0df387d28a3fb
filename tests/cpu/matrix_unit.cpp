// Walks on a matrix unit: on the portable one, which any machine has, and beside the processor's.
#define COTTENTION_CPU_PORTABLE_TILES

#include <sys/wait.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include <cottention/cpu.hpp>

#include "support/cases.hpp"
#include "support/catch.hpp"
#include "support/compare.hpp"
#include "support/cpu_runs.hpp"

using cottention::bfloat16, cottention::Mask, cottention::Scale;
using namespace support;

namespace {

template <class P>
ForwardCall<bfloat16> portable_forward() {
  using namespace cottention;
  return {[](const ForwardArguments<bfloat16>& args, const cpu::Execution& execution) {
            return cpu::workspace_bytes<P>(args, execution);
          },
          [](const ForwardArguments<bfloat16>& args, Workspace workspace, const cpu::Execution& execution) {
            return cpu::forward<P>(args, workspace, execution);
          }};
}
template <class P>
BackwardCall<bfloat16> portable_backward() {
  using namespace cottention;
  return {[](const BackwardArguments<bfloat16>& args, const cpu::Execution& execution) {
            return cpu::workspace_bytes<P>(args, execution);
          },
          [](const BackwardArguments<bfloat16>& args, Workspace workspace, const cpu::Execution& execution) {
            return cpu::backward<P>(args, workspace, execution);
          }};
}

using CausalByKey = cottention::Problem<bfloat16, cottention::any_head_dim, Mask::causal, Scale::by_key>;
using BidirectionalByQuery =
    cottention::Problem<bfloat16, cottention::any_head_dim, Mask::bidirectional, Scale::by_query>;

/// f(case, forward, backward) for cases of both problems.
template <class F>
void each_case(const std::vector<Case>& cases, F f) {
  for (Case c : cases) {
    c.mask = Mask::causal, c.scale = Scale::by_key;
    f(c, portable_forward<CausalByKey>(), portable_backward<CausalByKey>());
    c.mask = Mask::bidirectional, c.scale = Scale::by_query;
    f(c, portable_forward<BidirectionalByQuery>(), portable_backward<BidirectionalByQuery>());
  }
}

/// Several chunks with a ragged tail, groups of heads, dimensions that fill no tile, and one chunk.
std::vector<Case> shapes() {
  return {
      {.shape = {1, 300, 300, 4, 2, 24, 40}, .padding = Padding::middle, .initial_state = Presence::present},
      {.shape = {2, 150, 150, 1, 1, 33, 80}, .layout = Layout::gaps},
      {.shape = {1, 40, 40, 2, 2, 70, 17}, .rows = Rows::mixed, .initial_state = Presence::present},
      {.shape = {1, 200, 200, 1, 1, 16, 16}, .rows = Rows::small},
      {.shape = {1, 200, 200, 1, 1, 16, 16}, .rows = Rows::huge},
      {.shape = {1, 140, 140, 1, 1, 528, 3}}};
}

constexpr Manner vectors{.execution = {.threads = 1, .matrix_unit = false}};
constexpr Manner tiles{.execution = {.threads = 1}};

void scale_by(TensorBuffer<bfloat16>& x, double factor) {
  for (std::int64_t position = 0; position < x.positions(); ++position)
    for (std::int64_t h = 0; h < x.heads(); ++h)
      for (std::int64_t d = 0; d < x.dim(); ++d) {
        bfloat16& value = x.row(position, h)[d];
        value = from_double<bfloat16>(cottention::to_double(value) * factor);
      }
}

#if COTTENTION_CPU_HAS_AMX
// First of all, since a process asks once.
TEST_CASE("Where the operating system refuses tiles, calls compute in vectors") {
  const Case c{.shape = {1, 200, 200, 1, 1, 32, 32}};
  const Inputs<bfloat16> inputs(c);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    // Linux permits no tiles to a process whose stack for signals has no room for them.
    alignas(16) static char small[2048];
    stack_t stack{};
    stack.ss_sp = small, stack.ss_size = sizeof small;
    if (sigaltstack(&stack, nullptr) != 0) _exit(1);
    if (cottention::cpu::AmxUnit::available()) _exit(2);
    const auto call = cpu_forward<bfloat16>(c.mask, c.scale);
    _exit(same_bits(run_forward(call, inputs.forward(), tiles), run_forward(call, inputs.forward(), vectors))
              ? 0
              : 3);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

template <class Unit>
void multiply_on(Unit& unit, const void* a, const void* b, float* c) {
  unit.template load<1>(c, 64);
  unit.template load<4>(a, 64);
  unit.template load<6>(b, 64);
  unit.template multiply<1, 4, 6>();
  unit.template store<1>(c, 64);
  unit.template zero<1>();
  unit.template multiply<1, 4, 6>();
  unit.template store<1>(c + 256, 64);
}

TEST_CASE("The portable tiles give the bits of the processor's") {
  using namespace cottention::cpu;
  if (!AmxUnit::available()) return;
  std::mt19937 random(1);
  AmxUnit amx(true);
  PortableUnit portable(true);
  constexpr unsigned exponents[][2] = {{117, 137}, {1, 80}, {0, 3}, {30, 130}, {0, 254}};
  for (const auto& [least, most] : exponents)
    for (int turn = 0; turn < 50; ++turn) {
      const auto draw = [&] {
        const auto exponent = least + random() % (most - least + 1);
        return static_cast<std::uint16_t>((random() & 0x807f) | exponent << 7);
      };
      alignas(64) std::uint16_t a[512], b[512];
      alignas(64) float c[512], d[512];
      for (std::uint16_t& x : a) x = draw();
      for (std::uint16_t& x : b) x = draw();
      for (int i = 0; i < 512; ++i)
        d[i] = c[i] = std::bit_cast<float>(std::uint32_t{draw()} << 16 |
                                           static_cast<std::uint32_t>(random() & 0xffffu));
      multiply_on(amx, a, b, c);
      multiply_on(portable, a, b, d);
      INFO("exponents " << least << " to " << most);
      int differences = 0;
      for (int i = 0; i < 512; ++i)
        differences +=
            std::memcmp(c + i, d + i, sizeof(float)) != 0 && !(std::isnan(c[i]) && std::isnan(d[i]));
      CHECK(differences == 0);
    }
}

TEST_CASE("Calls on portable tiles give the bits of calls on the processor's") {
  if (!cottention::cpu::AmxUnit::available() || COTTENTION_CPU_VECTOR_BYTES != 64) return;
  each_case(shapes(), [](const Case& c, const auto& forward, const auto& backward) {
    Inputs<bfloat16> inputs(c);
    INFO(describe<bfloat16>(c));
    CHECK(same_bits(run_forward(forward, inputs.forward(), tiles),
                    run_forward(cpu_forward<bfloat16>(c.mask, c.scale), inputs.forward(), tiles)));
    Gradient gradients = run_backward(backward, inputs.backward(), tiles);
    const Gradient expected = run_backward(cpu_backward<bfloat16>(c.mask, c.scale), inputs.backward(), tiles);
    // Compilers may contract its sum in double in one unit and not in another.
    CHECK(relative_error(gradients.dscale_logit, expected.dscale_logit) < 1e-6);
    gradients.dscale_logit = expected.dscale_logit;
    CHECK(same_bits(gradients, expected));
  });
}
#endif

TEST_CASE("Calls on portable tiles are right, and their bits depend on no threads") {
  each_case(shapes(), [](const Case& c, const auto& forward, const auto& backward) {
    Inputs<bfloat16> inputs(c);
    INFO(describe<bfloat16>(c));
    const Output out = run_forward(forward, inputs.forward(), raising_none<bfloat16>(c, tiles));
    check_output(inputs, out);
    const Gradient gradients = run_backward(backward, inputs.backward(), raising_none<bfloat16>(c, tiles));
    check_gradient(inputs, gradients);
    const Manner threads{.execution = executor(3, Order::reversed)};
    CHECK(same_bits(run_forward(forward, inputs.forward(), threads), out));
    CHECK(same_bits(run_backward(backward, inputs.backward(), threads), gradients));
  });
}

TEST_CASE("A call may refuse the matrix unit") {
  CHECK(cottention::cpu::uses_matrix_unit<CausalByKey>());
  CHECK(!cottention::cpu::uses_matrix_unit<CausalByKey>({.matrix_unit = false}));
  using InFp32 = cottention::Problem<float, cottention::any_head_dim, Mask::causal, Scale::by_key>;
  CHECK(!cottention::cpu::uses_matrix_unit<InFp32>());
  each_case({{.shape = {1, 200, 200, 2, 1, 32, 32}}}, [](const Case& c, const auto& forward, const auto&) {
    Inputs<bfloat16> inputs(c);
    const Output in_vectors = run_forward(forward, inputs.forward(), vectors);
    CHECK(!same_bits(run_forward(forward, inputs.forward(), tiles), in_vectors));
    CHECK(same_bits(in_vectors,
                    run_forward(cpu_forward<bfloat16>(c.mask, c.scale), inputs.forward(), vectors)));
  });
}

TEST_CASE("States that are handed out are as good as those of vectors") {
  each_case({{.shape = {1, 2000, 2000, 1, 1, 64, 64}, .rows = Rows::correlated},
             {.shape = {1, 1000, 1000, 1, 1, 32, 48}}},
            [](const Case& c, const auto& forward, const auto&) {
              Inputs<bfloat16> inputs(c);
              INFO(describe<bfloat16>(c));
              const Output expected = expected_output(c, inputs.forward());
              const double error =
                  relative_error(run_forward(forward, inputs.forward(), tiles).h, expected.h);
              CHECK(error < bounds<float>.state);
            });
}

TEST_CASE("What is out of the range of products is computed in vectors") {
  const double infinity = std::numeric_limits<double>::infinity();
  // One chunk, where the two kinds of code differ in nothing else.
  const Case one_chunk{.shape = {1, 30, 30, 1, 1, 64, 64}, .initial_state = Presence::present};
  each_case({one_chunk}, [&](const Case& c, const auto& forward, const auto&) {
    INFO(describe<bfloat16>(c));
    const auto same_as_vectors = [&](double v_factor, double state_factor) {
      Inputs<bfloat16> inputs(c);
      scale_by(inputs.v(), v_factor);
      for (float& x : inputs.initial_state()) x *= static_cast<float>(state_factor);
      const auto run_on = [&](Manner manner) {
        manner.final_state = FinalState::absent;
        return run_forward(forward, inputs.forward(), manner);
      };
      const Output out = run_on(tiles);
      CHECK(relative_error(out.o, expected_output(c, inputs.forward()).o) <= bounds<bfloat16>.forward);
      return same_bits(out, run_on(vectors));
    };
    CHECK(!same_as_vectors(1, 1));
    CHECK(same_as_vectors(0x1p-100, 0x1p-100));
    CHECK(same_as_vectors(0x1p90, 0x1p90));
    CHECK(same_as_vectors(1, 0x1p-100));
    CHECK(same_as_vectors(1, 0x1p110));
  });
  each_case({{.shape = {1, 300, 300, 1, 1, 32, 32}}},
            [&](const Case& c, const auto& forward, const auto& backward) {
              INFO(describe<bfloat16>(c));
              for (const double factor : {0x1p-60, 0x1p60}) {  // far from 1 and inside
                Inputs<bfloat16> inputs(c);
                scale_by(inputs.v(), factor);
                scale_by(inputs.dout(), 1 / factor);
                check_output(inputs, run_forward(forward, inputs.forward(), tiles));
                check_gradient(inputs, run_backward(backward, inputs.backward(), tiles));
              }
              // An infinite value in the last chunk leaves the rows before it as they were where they do not
              // see it.
              if (c.mask == Mask::causal) {
                Inputs<bfloat16> inputs(c);
                const std::vector<double> before = run_forward(forward, inputs.forward(), tiles).o;
                inputs.v().row(280, 0)[5] = from_double<bfloat16>(infinity);
                const std::vector<double> after = run_forward(forward, inputs.forward(), tiles).o;
                const std::size_t rows = 256 * 32;
                CHECK(std::vector<double>(before.begin(), before.begin() + rows) ==
                      std::vector<double>(after.begin(), after.begin() + rows));
              }
            });
}

}  // namespace
