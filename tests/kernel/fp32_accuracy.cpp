// How accurate fp32 is on tensor cores that cut sums off, at head dimensions from 32 to 1,024 and at great
// lengths. Takes minutes: a test where more is emulated; elsewhere build the target fp32_accuracy, and run
// it. It prints what it finds.
#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <vector>

#include <emulation.hpp>

#include "support/catch.hpp"
#include "support/cuda_backward.hpp"

using cottention::HeadDim, cottention::Mask, cottention::Problem, cottention::Scale;
using namespace support;

namespace {

namespace emulation = cottention::emulation;

struct Model {
  const char* name;
  emulation::TensorCores cores;
};
constexpr Model models[] = {
    {"blocks of 8", emulation::hopper}, {"blocks of 4", emulation::ampere}, {"rounded", emulation::rounded}};

/// With each of the models in force.
template <class F>
void for_each_model(F f) {
  const emulation::RestoredOptions restored;
  for (const Model& model : models) {
    emulation::options().tensor_cores = model.cores;
    INFO(model.name);
    f(model);
  }
}

template <class P>
void measure(const Model& model, std::int64_t tokens, Rows rows = Rows::normal, bool backward = true) {
  constexpr int dim = P::head_dim.qk;
  Case c{.mask = P::mask,
         .scale = P::scale,
         .shape = {1, tokens, tokens, 1, 1, dim, P::head_dim.v},
         .rows = rows};
  Inputs<float> inputs(c);
  const Output got = run_cuda_forward<P>(inputs.forward(), {.split = {1}});
  const Output expected = expected_output(c, inputs.forward());
  const double o = relative_error(got.o, expected.o), h = relative_error(got.h, expected.h);
  constexpr const char* scales[] = {"none", "by key", "by query"};
  std::printf("dim %4d x %4d %-13s %-8s %7lld tokens, %s, %s: o %.2e state %.2e", dim, P::head_dim.v,
              P::mask == Mask::causal ? "causal" : "bidirectional", scales[static_cast<int>(P::scale)],
              static_cast<long long>(tokens), rows == Rows::correlated ? "correlated" : "independent",
              model.name, o, h);
  CHECK(o <= bounds<float>.forward);
  CHECK(h <= bounds<float>.state);
  if (backward) {
    const auto args = inputs.backward();
    const Gradient made = run_cuda_backward<P>(args, {.split = {1}});
    const Gradient right = gradient(P::mask, P::scale, args);
    const double errors[] = {
        relative_error(made.dq, right.dq), relative_error(made.dk, right.dk),
        relative_error(made.dv, right.dv),
        relative_error(made.dscale_logit, right.dscale_logit, size_of_dscale_logit(inputs, right)),
        relative_error(made.dinitial_state, right.dinitial_state)};
    std::printf(" dq %.2e dk %.2e dv %.2e dm %.2e dinitial %.2e", errors[0], errors[1], errors[2], errors[3],
                errors[4]);
    for (const double error : errors) CHECK(error <= bounds<float>.gradient);
  }
  std::printf("\n");
  std::fflush(stdout);
}

template <int qk, int v, Mask mask, Scale scale = Scale::by_key>
using Of = Problem<float, HeadDim{qk, v}, mask, scale>;

template <int qk, int v>
void measure_dims(std::int64_t tokens) {
  for_each_model([&](const Model& model) {
    for (const Rows rows : {Rows::normal, Rows::correlated}) {
      measure<Of<qk, v, Mask::causal>>(model, tokens, rows);
      measure<Of<qk, v, Mask::bidirectional>>(model, tokens, rows);
    }
  });
}

}  // namespace

TEST_CASE("fp32 is right at every head dim") {
  measure_dims<32, 32>(600);
  measure_dims<64, 64>(600);
  measure_dims<128, 128>(300);
  measure_dims<96, 96>(300);
  measure_dims<256, 256>(150);
  measure_dims<512, 512>(70);
  measure_dims<1024, 1024>(40);
}

TEST_CASE("fp32 is right at every length") {
  for_each_model([&](const Model& model) {
    for (const std::int64_t tokens : {1, 8, 64, 1'024, 8'192, 131'072})
      for (const Rows rows : {Rows::normal, Rows::correlated}) {
        measure<Of<32, 32, Mask::causal, Scale::none>>(model, tokens, rows, tokens < 100'000);
        measure<Of<32, 32, Mask::bidirectional, Scale::none>>(model, tokens, rows, tokens < 100'000);
      }
  });
}
