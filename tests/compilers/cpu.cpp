// Forward, backward and step on the CPU, compared with the reference: what `./run compilers` compiles with
// every compiler.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include <cottention/cpu.hpp>
#include <cottention/reference.hpp>

namespace ct = cottention;

namespace {

constexpr std::int64_t tokens = 40, dim = 32;
using P = ct::Problem<float, ct::HeadDim{dim, dim}, ct::Mask::causal, ct::Scale::by_key>;

std::vector<float> wave(std::int64_t size, float phase) {
  std::vector<float> x(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(phase + 1.7f * static_cast<float>(i));
  return x;
}

int failures = 0;

/// Relative root mean square against the bound of docs/math.md.
void compare(const char* name, const float* x, const double* reference, std::int64_t size, double bound) {
  double error = 0, norm = 0;
  for (std::int64_t i = 0; i < size; ++i) {
    const double difference = static_cast<double>(x[i]) - reference[i];
    error += difference * difference;
    norm += reference[i] * reference[i];
  }
  if (std::sqrt(error / norm) <= bound) return;  // false for NaN
  ++failures;
  std::printf("%s is off by %.2e, more than %.0e\n", name, std::sqrt(error / norm), bound);
}

void succeeded(ct::CallStatus status) {
  if (status) return;
  ++failures;
  std::printf("%s\n", status.reason);
}

}  // namespace

int main() {
  constexpr std::int64_t size = tokens * dim;
  const std::vector<float> q = wave(size, 0.1f), k = wave(size, 0.2f), v = wave(size, 0.3f),
                           g = wave(size, 0.4f), m = {0.3f};
  std::vector<float> o(size), dq(size), dk(size), dv(size), dm(1), h(dim * dim), row(dim);
  alignas(64) static unsigned char scratch[1 << 20];
  const ct::Workspace workspace{scratch, sizeof scratch};

  ct::ForwardArguments<float> forward;
  forward.shape = {1, tokens, tokens, 1, 1, dim, dim};
  forward.q = {q.data()};
  forward.k = {k.data()};
  forward.v = {v.data()};
  forward.o = {o.data()};
  forward.scale_logit = m.data();
  succeeded(ct::cpu::forward<P>(forward, workspace, {1}));
  const ct::reference::Output output = ct::reference::forward<P>(forward);
  compare("o", o.data(), output.o.data(), size, 1e-6);

  ct::BackwardArguments<float> backward;
  backward.shape = forward.shape;
  backward.q = forward.q;
  backward.k = forward.k;
  backward.v = forward.v;
  backward.dout = {g.data()};
  backward.dq = {dq.data()};
  backward.dk = {dk.data()};
  backward.dv = {dv.data()};
  backward.scale_logit = m.data();
  backward.dscale_logit = dm.data();
  succeeded(ct::cpu::backward<P>(backward, workspace, {1}));
  const ct::reference::Gradient gradient = ct::reference::backward<P>(backward);
  compare("dq", dq.data(), gradient.dq.data(), size, 3e-6);
  compare("dk", dk.data(), gradient.dk.data(), size, 3e-6);
  compare("dv", dv.data(), gradient.dv.data(), size, 3e-6);

  std::int64_t count = 0;
  ct::StepArguments<float> step;
  step.shape = {1, 1, 1, 1, 1, dim, dim};
  step.o = {row.data()};
  step.scale_logit = m.data();
  step.pool = {h.data(), &count};
  step.pool_slots = 1;
  for (std::int64_t t = 0; t < tokens; ++t) {
    step.q = {q.data() + t * dim};
    step.k = {k.data() + t * dim};
    step.v = {v.data() + t * dim};
    succeeded(ct::cpu::step<P>(step, workspace, {1}));
  }
  compare("a step's o", row.data(), output.o.data() + size - dim, dim, 1e-6);
  compare("a step's state", h.data(), output.h.data(), dim * dim, 1e-6);
  return failures != 0;
}
