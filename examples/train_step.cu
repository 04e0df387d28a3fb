// Training on a GPU: forward, the slope of a loss, every gradient, an update. The rows of q, k and v and the
// scale m of each head are fitted until attention gives what it gives of other rows; the gradients of the
// first step are checked against the reference.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include <cottention/owned_workspace.cuh>
#include <cottention/reference.hpp>

#include "device_support.hpp"
#include "support.hpp"

namespace cottention::example {
using Attention = Problem<float, HeadDim{32, 32}, Mask::causal, Scale::by_key>;
constexpr std::int64_t batch = 2, heads = 2, dim = 32;

/// q, k, v and m, one behind the other, and the arguments of calls on them.
struct Layout {
  std::int64_t seq;
  std::int64_t elements() const { return batch * seq * heads * dim; }  // of each of q, k, v and o
  std::int64_t parameters() const { return 3 * elements() + heads; }
  Shape shape() const {
    return {.batch = batch,
            .seq_q = seq,
            .seq_k = seq,
            .heads_q = heads,
            .heads_kv = heads,
            .dim_qk = dim,
            .dim_v = dim};
  }

  ForwardArguments<float> forward(const float* p, float* o) const {
    return {.shape = shape(),
            .q = {p},
            .k = {p + elements()},
            .v = {p + 2 * elements()},
            .o = {o},
            .scale_logit = p + 3 * elements()};
  }
  BackwardArguments<float> backward(const float* p, const float* dout, float* dp) const {
    return {.shape = shape(),
            .q = {p},
            .k = {p + elements()},
            .v = {p + 2 * elements()},
            .dout = {dout},
            .dq = {dp},
            .dk = {dp + elements()},
            .dv = {dp + 2 * elements()},
            .scale_logit = p + 3 * elements(),
            .dscale_logit = dp + 3 * elements()};
  }
};

double error_of(const Layout& layout, const std::vector<float>& p, const std::vector<float>& dout,
                const std::vector<float>& gradient) {
  const auto expected = reference::backward<Attention>(layout.backward(p.data(), dout.data(), nullptr));
  std::vector<double> all;
  for (const auto* part : {&expected.dq, &expected.dk, &expected.dv, &expected.dscale_logit})
    all.insert(all.end(), part->begin(), part->end());
  RelativeError error;
  error.add(gradient, all);
  return error.value();
}

int run(std::int64_t seq, int steps) {
  skip_without_device();
  const Layout layout{seq};
  const auto parameters = static_cast<std::size_t>(layout.parameters()),
             elements = static_cast<std::size_t>(layout.elements());
  std::mt19937 random(1);
  std::vector<float> p = random_tensor<float>(layout.parameters(), random);
  std::vector<float> o(elements), target(elements), gradient(parameters), mean(parameters),
      square(parameters);

  Stream stream;
  DeviceArray<float> device_p, device_o, device_dout, device_gradient;
  DeviceWorkspace workspace;
  check(stream.create());
  check(device_p.reserve(parameters)), check(device_gradient.reserve(parameters));
  check(device_o.reserve(elements));

  const auto forward = layout.forward(device_p.data(), device_o.data());
  const auto attend = [&](std::vector<float>& to) {
    check(device_p.upload(p, stream));
    check(cottention::forward<Attention>(forward, workspace, stream.get()));
    check(device_o.download(to, stream));
    check(stream.wait());
  };
  attend(target);
  p = random_tensor<float>(layout.parameters(), random);

  double first_loss = 0, loss = 0, error = 0;
  for (int step = 1; step <= steps; ++step) {
    attend(o);
    loss = 0;
    for (std::size_t i = 0; i < elements; ++i) {
      o[i] -= target[i];  // the slope of half of the square
      loss += 0.5 * o[i] * o[i] / static_cast<double>(elements);
    }
    check(device_dout.upload(o, stream));
    const auto backward = layout.backward(device_p.data(), device_dout.data(), device_gradient.data());
    check(cottention::backward<Attention>(backward, workspace, stream.get()));
    check(device_gradient.download(gradient, stream));
    check(stream.wait());
    if (step == 1) first_loss = loss, error = error_of(layout, p, o, gradient);
    for (std::size_t i = 0; i < parameters; ++i) {  // Adam
      mean[i] += 0.1f * (gradient[i] - mean[i]);
      square[i] += 0.01f * (gradient[i] * gradient[i] - square[i]);
      p[i] -= 0.1f * mean[i] / (std::sqrt(square[i]) + 1e-8f);
    }
    std::printf("step %2d  loss %.4f\n", step, loss);
  }
  constexpr double bound = 3e-6;  // of gradients in fp32
  std::printf("gradients: relative RMS error %.1e, bound %.0e\n", error, bound);
  return error <= bound && loss < 0.5 * first_loss ? 0 : 1;
}
}  // namespace cottention::example

int main(int argc, char** argv) {
  const int seq = argc > 1 ? std::atoi(argv[1]) : 1024, steps = argc > 2 ? std::atoi(argv[2]) : 20;
  if (seq >= 1 && steps >= 2) return cottention::example::run(seq, steps);
  std::fprintf(stderr, "usage: %s [TOKENS [STEPS]]\n", argv[0]);
  return 2;
}
