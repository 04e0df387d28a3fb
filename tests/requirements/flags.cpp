// Values known in closed form, for flags that are not refused though they let the compiler change arithmetic.
// Weights of counts, lengths, and NaN, which reaches the outputs that see it and no others.
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>

#include <cottention/cpu.hpp>

namespace {

constexpr int tokens = 3, dim = 16;
using P = cottention::Problem<float, cottention::HeadDim{dim, dim}, cottention::Mask::causal,
                              cottention::Scale::by_key>;

// By its bits: what is compiled with such flags may take std::isnan for false.
bool is_nan(float x) { return (std::bit_cast<std::uint32_t>(x) & 0x7fffffffu) > 0x7f800000u; }

int failures = 0;
void expect(bool holds, const char* what, float value) {
  if (holds) return;
  ++failures;
  std::printf("%s: %.9g\n", what, static_cast<double>(value));
}

bool near_to(float x, double value) {
  return !is_nan(x) && std::abs(static_cast<double>(x) - value) <= 1e-6 * value;
}

}  // namespace

int main() {
  // q and k are 3 e_0 and v is 1, so that a token adds its weight n^-1/2 to every output: m = 0, and 4 tokens
  // came before.
  float q[tokens][dim] = {}, k[tokens][dim] = {}, v[tokens][dim], o[tokens][dim];
  float state[dim * dim] = {}, scale_logit[1] = {0};
  std::int64_t count[1] = {4};
  for (int t = 0; t < tokens; ++t) {
    q[t][0] = k[t][0] = 3;
    for (float& x : v[t]) x = 1;
  }
  v[2][5] = std::numeric_limits<float>::quiet_NaN();
  cottention::ForwardArguments<float> arguments;
  arguments.shape = {1, tokens, tokens, 1, 1, dim, dim};
  arguments.q = {q[0]};
  arguments.k = {k[0]};
  arguments.v = {v[0]};
  arguments.o = {o[0]};
  arguments.scale_logit = scale_logit;
  arguments.initial_state = {state, count};
  alignas(64) static unsigned char scratch[1 << 18];
  const cottention::CallStatus status =
      cottention::cpu::forward<P>(arguments, {scratch, sizeof scratch}, {1});
  if (!status) {
    std::printf("%s\n", status.reason);
    return 1;
  }
  double sum = 0;
  for (int t = 0; t < tokens; ++t) {
    sum += 1 / std::sqrt(5.0 + t);
    for (int c = 0; c < dim; ++c)
      if (t == 2 && c == 5)
        expect(is_nan(o[t][c]), "NaN in v reached o as", o[t][c]);
      else
        expect(near_to(o[t][c], sum), "an output is", o[t][c]);
  }
  return failures != 0;
}
