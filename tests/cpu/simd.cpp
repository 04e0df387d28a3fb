// The CPU backend's vectors at every width that the target has: their own words, and whole calls.
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include <cottention/cpu.hpp>
#include <cottention/reference.hpp>

#include "support/catch.hpp"
#include "support/error.hpp"

namespace cottention::test {
namespace {

using namespace cottention::cpu;
using support::bounds;

template <class T>
double error_of(const std::vector<T>& x, const std::vector<double>& expected) {
  std::vector<double> wide;
  for (const T value : x) wide.push_back(to_double(value));
  return support::relative_error(wide, expected);
}

/// f.template operator()<bytes>() for each width of the target.
template <class F>
void each_width(F f) {
  f.template operator()<16>();
  if constexpr (native_vector_bytes >= 32) f.template operator()<32>();
  if constexpr (native_vector_bytes >= 64) f.template operator()<64>();
}

template <class A, int bytes>
void check_words() {
  using S = Simd<A, bytes>;
  typename S::Vector block[S::lanes];
  for (int i = 0; i < S::lanes; ++i)
    for (int j = 0; j < S::lanes; ++j) block[i][j] = static_cast<A>(100 * i + j);
  typename S::Vector summed[S::lanes];
  std::copy(block, block + S::lanes, summed);
  const typename S::Vector sums = sums_of<S>(summed);
  transpose<S>(block);
  for (int i = 0; i < S::lanes; ++i) {
    CHECK(S::iota()[i] == i);
    const A row = static_cast<A>(100 * i * S::lanes + S::lanes * (S::lanes - 1) / 2);
    CHECK(sums[i] == row);
    for (int j = 0; j < S::lanes; ++j) CHECK(block[i][j] == static_cast<A>(100 * j + i));
  }
  A numbers[S::lanes];
  std::iota(numbers, numbers + S::lanes, A{1});
  CHECK(S::sum(S::load(numbers)) == static_cast<A>(S::lanes * (S::lanes + 1) / 2));
  for (int count = 0; count < S::lanes; ++count) {
    const typename S::Vector part = S::load_part(numbers, count);
    A stored[S::lanes] = {};
    S::store_part(stored, S::splat(7), count);
    for (int i = 0; i < S::lanes; ++i) {
      CHECK(part[i] == (i < count ? numbers[i] : A{0}));
      CHECK(stored[i] == (i < count ? A{7} : A{0}));
    }
  }
}

/// Every bit pattern widens as the scalar conversion has it, and floats around every pattern round like it.
template <class T, int bytes>
void check_conversions() {
  using S = Simd<float, bytes>;
  int wrong = 0;
  for (std::uint32_t first = 0; first < 0x10000; first += S::lanes) {
    T in[S::lanes], out[S::lanes];
    float near[S::lanes];
    for (std::uint32_t i = 0; i < S::lanes; ++i) {
      in[i] = T::from_bits(static_cast<std::uint16_t>(first + i));
      const float x = static_cast<float>(in[i]);
      // between this value and the next: low, tie and high
      const float next = static_cast<float>(T::from_bits(static_cast<std::uint16_t>(first + i + 1)));
      const float part = i % 3 == 0 ? 0.25f : i % 3 == 1 ? 0.5f : 0.75f;
      near[i] = std::isfinite(x) && std::isfinite(next) ? x + part * (next - x) : x;
    }
    const typename S::Vector wide = load_widened<S>(in);
    store_narrowed<S>(out, S::load(near));
    for (int i = 0; i < S::lanes; ++i) {
      const float expected = static_cast<float>(in[i]), got = wide[i];
      wrong += std::isnan(expected) ? !std::isnan(got) : std::memcmp(&expected, &got, sizeof got) != 0;
      const T rounded(near[i]);
      wrong += std::isnan(near[i]) ? !std::isnan(static_cast<float>(out[i])) : out[i].bits != rounded.bits;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("Vectors load, sum, select and transpose at every width") {
  each_width([]<int bytes> {
    check_words<float, bytes>();
    check_words<double, bytes>();
  });
}

TEST_CASE("16-bit elements convert at every width as they do one by one") {
  each_width([]<int bytes> {
    check_conversions<half, bytes>();
    check_conversions<bfloat16, bytes>();
  });
}

TEST_CASE("Inverse roots are right to a few tasks in the last place over the whole range") {
  using S = Simd<float, native_vector_bytes>;
  using D = Simd<double, native_vector_bytes>;
  double worst = 0, worst_double = 0;
  for (double x = 1e-24; x < 1e37; x *= 1.0137) {
    const auto single = static_cast<double>(static_cast<float>(x));
    worst = std::max(
        worst, std::abs(cpu::detail::rsqrt<S>(S::splat(static_cast<float>(x)))[0] * std::sqrt(single) - 1));
    worst_double = std::max(worst_double, std::abs(cpu::detail::rsqrt<D>(D::splat(x))[0] * std::sqrt(x) - 1));
  }
  CHECK(worst < 4 * std::numeric_limits<float>::epsilon());
  CHECK(worst_double < 4 * std::numeric_limits<double>::epsilon());
}

TEST_CASE("Weights follow n^-sigmoid(m) from the first token to 2^53") {
  double worst = 0;
  for (const double m : {-20.0, -1.0, 0.0, 0.5, 3.0, 40.0}) {
    for (double n = 0; n < 0x1p53; n = std::floor(n * 1.37 + 1)) {
      double counts[16];
      float weights[16];
      for (int i = 0; i < 16; ++i) counts[i] = n + i;
      weights_of_counts<float, native_vector_bytes>(counts, 16, sigmoid(m), weights);
      for (int i = 0; i < 16; ++i) {
        const double expected = std::pow(std::max(counts[i], 1.0), -sigmoid(m));
        worst = std::max(worst, std::abs(static_cast<double>(weights[i]) / expected - 1));
      }
    }
  }
  CHECK(worst < std::numeric_limits<float>::epsilon());  // half of it is rounding to float
}

/// Forward, backward and step with grouped heads, dimensions that fill no vector and a ragged last chunk.
template <Element T, Mask mask, int bytes>
void check_calls() {
  using P = Problem<T, any_head_dim, mask, Scale::by_key>;
  using A = Accumulate<T>;
  const Shape shape{
      .batch = 1, .seq_q = 75, .seq_k = 75, .heads_q = 4, .heads_kv = 2, .dim_qk = 11, .dim_v = 37};
  std::mt19937 random(20 + bytes);
  std::normal_distribution<float> normal;
  const auto draw = [&](std::int64_t rows, std::int64_t dim) {
    std::vector<T> x(static_cast<std::size_t>(rows * dim));
    for (T& value : x) value = static_cast<T>(normal(random));
    return x;
  };
  const auto q = draw(75 * 4, 11), k = draw(75 * 2, 11), v = draw(75 * 2, 37), dout = draw(75 * 4, 37);
  std::vector<T> o(dout.size()), dq(q.size()), dk(k.size()), dv(v.size()), stepped(o.size());
  const std::vector<A> m{A{1} / 3, A{-1} / 7};  // no floats where A is double
  std::vector<A> dm(2), h(2 * 11 * 37);
  std::vector<std::byte> memory(std::size_t{1} << 20);
  void* aligned = memory.data();
  std::size_t bytes_left = memory.size();
  std::align(workspace_alignment, 1, aligned, bytes_left);
  const Workspace workspace{aligned, bytes_left};

  const ForwardArguments<T> forward_args{.shape = shape,
                                         .q = {q.data()},
                                         .k = {k.data()},
                                         .v = {v.data()},
                                         .o = {o.data()},
                                         .scale_logit = m.data()};
  const CallStatus forward_status =
      cpu::forward<P, tuned_tiling<P>, bytes>(forward_args, workspace, {.threads = 1});
  REQUIRE(forward_status.ok());
  const auto expected = reference::forward<P>(forward_args);
  CHECK(error_of(o, expected.o) < bounds<T>.forward);

  const BackwardArguments<T> backward_args{.shape = shape,
                                           .q = {q.data()},
                                           .k = {k.data()},
                                           .v = {v.data()},
                                           .dout = {dout.data()},
                                           .dq = {dq.data()},
                                           .dk = {dk.data()},
                                           .dv = {dv.data()},
                                           .scale_logit = m.data(),
                                           .dscale_logit = dm.data()};
  const CallStatus backward_status =
      cpu::backward<P, tuned_tiling<P>, bytes>(backward_args, workspace, {.threads = 1});
  REQUIRE(backward_status.ok());
  const auto gradient = reference::backward<P>(backward_args);
  CHECK(error_of(dq, gradient.dq) < bounds<T>.gradient);
  CHECK(error_of(dk, gradient.dk) < bounds<T>.gradient);
  CHECK(error_of(dv, gradient.dv) < bounds<T>.gradient);
  CHECK(error_of(dm, gradient.dscale_logit) < bounds<T>.gradient);

  if constexpr (mask == Mask::causal) {
    std::int64_t count = 0;
    const StepArguments<T> step_args{.shape = shape,
                                     .q = {q.data()},
                                     .k = {k.data()},
                                     .v = {v.data()},
                                     .o = {stepped.data()},
                                     .scale_logit = m.data(),
                                     .pool = {h.data(), &count},
                                     .pool_slots = 1};
    const CallStatus step_status = cpu::step<P, bytes>(step_args, workspace, {.threads = 1});
    REQUIRE(step_status.ok());
    CHECK(error_of(stepped, expected.o) < bounds<T>.forward);
    CHECK(error_of(h, expected.h) < bounds<T>.state);
  }
}

TEST_CASE("Calls are right at every vector width") {
  each_width([]<int bytes> {
    check_calls<float, Mask::causal, bytes>();
    if constexpr (bytes < native_vector_bytes) {  // the native width has tests of its own
      check_calls<float, Mask::bidirectional, bytes>();
      check_calls<double, Mask::causal, bytes>();
      check_calls<bfloat16, Mask::causal, bytes>();
      check_calls<half, Mask::causal, bytes>();
    }
  });
}

}  // namespace
}  // namespace cottention::test
