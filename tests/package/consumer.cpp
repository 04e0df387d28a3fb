// A user's program: a causal sequence in one call, then token by token, and the outputs compared. It is built against
// the library in each of the ways the README names.
#include <cmath>
#include <cstdio>

#include "consumer.hpp"

// Where the build says what it asked for, hold it to that.
#if defined(EXPECT_OPENMP) && EXPECT_OPENMP && !defined(_OPENMP)
#error "the target should have brought OpenMP and did not"
#endif
#if defined(EXPECT_OPENMP) && !EXPECT_OPENMP && defined(_OPENMP)
#error "the target brought OpenMP although it should not"
#endif

static std::vector<float> wave(std::int64_t size, float phase) {
  std::vector<float> values(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::sin(phase + 1.7f * static_cast<float>(i));
  return values;
}

int main() {
  constexpr std::int64_t size = tokens * heads * dim;
  const Inputs in{wave(size, 0.1f), wave(size, 0.2f), wave(size, 0.3f), wave(heads, 0.4f)};
  std::vector<float> parallel(size, NAN), recurrent(size, NAN);
  if (!forward_unit(in, parallel.data()) || !step_unit(in, recurrent.data())) return 1;

  double error = 0, norm = 0;
  for (std::size_t i = 0; i < parallel.size(); ++i) {
    const double a = parallel[i], b = recurrent[i];
    error += (a - b) * (a - b);
    norm += a * a;
  }
  const double relative = std::sqrt(error / norm);
  const bool agree = relative <= 2e-6;  // each of the two may be off by the 1e-6 of single precision; never for NaN
  std::printf("forward and step %s: relative difference %.1e\n", agree ? "agree" : "DIFFER", relative);
  return agree ? 0 : 1;
}
