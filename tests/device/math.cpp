// device/math.cuh
#include <cmath>
#include <cstdint>
#include <limits>

#include <cuda_runtime.h>

#include <cottention/device/math.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>

#include "device/support.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

namespace device = cottention::device;
using device_test::DeviceArray;

/// Thread 0 writes what Operation gives for a, b and c.
template <class Operation, class T, class Out>
struct Evaluate {
  struct Params {
    Out* out;
    T a, b, c;
  };
  struct Storage {};
  static constexpr int threads = 32, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage&) {
    if (device::thread_index() == 0)
      device::store_global(params.out, static_cast<Out>(Operation::apply(params.a, params.b, params.c)));
  }
};

template <class Operation, class Out, class T>
Out evaluate(T a, T b = 0, T c = 0) {
  return device_test::output<Evaluate<Operation, T, Out>, Out, T, T, T>(1, a, b, c)[0];
}

struct Fused {
  template <class T>
  __device__ static T apply(T a, T b, T c) {
    return device::fma(a, b, c);
  }
};
/// Contracted to one rounding this would be Fused.
struct ProductThenSum {
  template <class T>
  __device__ static T apply(T a, T b, T c) {
    return device::add_rn(device::mul_rn(a, b), c);
  }
};
struct Quotient {
  template <class T>
  __device__ static T apply(T a, T b, T) {
    return device::div_rn(a, b);
  }
};
struct SquareRoot {
  template <class T>
  __device__ static T apply(T a, T, T) {
    return device::sqrt_rn(a);
  }
};
struct InverseSquareRoot {
  __device__ static float apply(float a, float, float) { return device::rsqrt(a); }
};
struct ApproximateExp2 {
  __device__ static float apply(float a, float, float) { return device::approximate_exp2(a); }
};
struct ApproximateLog2 {
  __device__ static float apply(float a, float, float) { return device::approximate_log2(a); }
};
struct Exponential {
  template <class T>
  __device__ static T apply(T a, T, T) {
    return device::exponential(a);
  }
};
struct Log1p {
  template <class T>
  __device__ static T apply(T a, T, T) {
    return device::log1p_of(a);
  }
};
struct Logarithm {
  __device__ static double apply(double a, double, double) { return device::logarithm(a); }
};
struct IsFinite {
  template <class T>
  __device__ static int apply(T a, T, T) {
    return device::is_finite(a) ? 1 : 0;
  }
};
struct Magnitude {
  template <class T>
  __device__ static T apply(T a, T, T) {
    return device::magnitude(a);
  }
};
struct TimesPowerOfTwo {
  template <class T>
  __device__ static T apply(T a, T exponent, T) {
    return device::times_power_of_two(a, static_cast<int>(exponent));
  }
};
struct ExponentOf {
  template <class T>
  __device__ static int apply(T a, T, T) {
    return device::exponent_of(a);
  }
};
struct CountOnes {
  __device__ static int apply(double bits, double, double) {
    return device::popc(static_cast<std::uint32_t>(bits));
  }
};

template <class T>
void check_rounding() {
  constexpr std::uint64_t seed = 7;
  INFO("seed " << seed);
  support::Random random(seed);
  for (int i = 0; i < 20; ++i) {
    // Volatile: the host's compiler must not contract or extend what is expected.
    const T a = static_cast<T>(random.normal()), b = static_cast<T>(random.normal());
    volatile T product = a * b;
    const T c = -product;
    volatile T sum = product + c;
    CHECK(evaluate<ProductThenSum, T>(a, b, c) == sum);
    CHECK(evaluate<Fused, T>(a, b, c) == std::fma(a, b, c));
    CHECK(evaluate<Quotient, T>(a, b) == a / b);
    CHECK(evaluate<SquareRoot, T>(a * a) == std::sqrt(a * a));
  }
}

template <class T>
void check_classes() {
  constexpr T largest = std::numeric_limits<T>::max(), infinity = std::numeric_limits<T>::infinity();
  for (const T x : {T(0), T(-1), largest, -largest, std::numeric_limits<T>::denorm_min()})
    CHECK(evaluate<IsFinite, int>(x) == 1);
  for (const T x : {infinity, -infinity, std::numeric_limits<T>::quiet_NaN()})
    CHECK(evaluate<IsFinite, int>(x) == 0);
  CHECK(evaluate<Magnitude, T>(T(-3)) == 3);
  CHECK(evaluate<TimesPowerOfTwo, T>(T(1.5), T(-20)) == std::ldexp(T(1.5), -20));
  CHECK(evaluate<TimesPowerOfTwo, T>(T(-1), T(100)) == std::ldexp(T(-1), 100));
  CHECK(evaluate<ExponentOf, int>(T(1)) == 0);
  CHECK(evaluate<ExponentOf, int>(T(-0.9)) == -1);
  CHECK(evaluate<ExponentOf, int>(T(4097)) == 12);
  CHECK(evaluate<ExponentOf, int>(std::numeric_limits<T>::denorm_min()) ==
        std::ilogb(std::numeric_limits<T>::denorm_min()));
}

template <class T>
void check_functions() {
  // "CUDA C++ Programming Guide", mathematical functions: 2 units in the last place.
  const double within = 2 * static_cast<double>(std::numeric_limits<T>::epsilon());
  for (const double x : {-20.0, -1.0, -0.001, 0.0, 0.3, 5.0, 30.0}) {
    const T t = static_cast<T>(x);
    CHECK(static_cast<double>(evaluate<Exponential, T>(t)) ==
          Approx(std::exp(static_cast<double>(t))).epsilon(within).margin(0));
  }
  for (const double x : {-0.9, -1e-5, 0.0, 1e-9, 0.5, 100.0}) {
    const T t = static_cast<T>(x);
    CHECK(static_cast<double>(evaluate<Log1p, T>(t)) ==
          Approx(std::log1p(static_cast<double>(t))).epsilon(within).margin(0));
  }
}

}  // namespace

TEST_CASE("Products and sums are rounded each on its own, fused ones once") {
  check_rounding<float>();
  check_rounding<double>();
}

TEST_CASE("Finiteness, magnitudes and exponents of fp32 and fp64") {
  check_classes<float>();
  check_classes<double>();
}

TEST_CASE("exp, log1p and log are within two units in the last place") {
  check_functions<float>();
  check_functions<double>();
  for (const double x : {1e-300, 0.5, 1.0, 131072.0})
    CHECK(evaluate<Logarithm, double>(x) == Approx(std::log(x)).epsilon(4.5e-16).margin(0));
}

TEST_CASE("rsqrt is within two units in the last place") {
  constexpr std::uint64_t seed = 11;
  INFO("seed " << seed);
  support::Random random(seed);
  for (int i = 0; i < 40; ++i) {
    const float x = std::ldexp(1.0f + std::fabs(static_cast<float>(random.normal())), 5 * i - 100);
    CHECK(static_cast<double>(evaluate<InverseSquareRoot, float>(x)) ==
          Approx(1 / std::sqrt(static_cast<double>(x))).epsilon(2.4e-7).margin(0));
  }
}

TEST_CASE("approximate_exp2 and approximate_log2 are within 2^-22") {
  for (const float x : {-20.0f, -0.7f, -1e-6f, 0.0f, 0.25f, 3.9f})
    CHECK(static_cast<double>(evaluate<ApproximateExp2, float>(x)) ==
          Approx(std::exp2(static_cast<double>(x))).epsilon(0x1p-22).margin(0));
  // PTX ISA: an absolute error near 1, a relative one elsewhere.
  for (const float x : {1e-6f, 0.6f, 1.0f, 1.0001f, 1.9f, 131072.0f})
    CHECK(static_cast<double>(evaluate<ApproximateLog2, float>(x)) ==
          Approx(std::log2(static_cast<double>(x))).epsilon(0x1p-22).margin(0x1p-22));
}

TEST_CASE("popc counts the ones among 32 bits") {
  CHECK(evaluate<CountOnes, int>(0.0) == 0);
  CHECK(evaluate<CountOnes, int>(4294967295.0) == 32);
  CHECK(evaluate<CountOnes, int>(0x80000001p0) == 2);
}
