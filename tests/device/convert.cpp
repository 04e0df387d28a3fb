// device/convert.cuh
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include <cuda_runtime.h>

#include <cottention/device/convert.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>

#include "device/support.hpp"
#include "support/catch.hpp"

namespace {

namespace device = cottention::device;
using cottention::bfloat16;
using cottention::half;
using device_test::DeviceArray;

/// out[i] = Operation::apply(in[i]), for one block of threads.
template <class Operation, class In, class Out>
struct Apply {
  struct Params {
    Out* out;
    const In* in;
    int count;
  };
  struct Storage {};
  static constexpr int threads = 32, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage&) {
    for (int i = device::thread_index(); i < params.count; i += threads)
      device::store_global(params.out + i, Operation::apply(device::load_global(params.in + i)));
  }
};

template <class Operation, class Out, class In>
std::vector<Out> apply(const std::vector<In>& in) {
  DeviceArray<In> in_global(in);
  return device_test::output<Apply<Operation, In, Out>, Out, const In*, int>(in.size(), in_global.data(),
                                                                             static_cast<int>(in.size()));
}

template <class T>
struct Narrow {
  __device__ static std::uint16_t apply(float x) { return device::narrow<T>(x).bits; }
};
template <class T>
struct Pack {
  __device__ static std::uint32_t apply(float x) { return device::pack<T>(x, -2.0f * x); }
};
/// 3 x - 2 in the low half, and in the high half 0 x + 5.
template <class T>
struct FusedPair {
  __device__ static std::uint32_t apply(float x) {
    return device::fma_pair<T>(device::pack<T>(x, x), device::pack<T>(3.0f, 0.0f),
                               device::pack<T>(-2.0f, 5.0f));
  }
};
template <class T>
struct Widen {
  __device__ static float apply(std::uint16_t bits) {
    T x;
    x.bits = bits;
    return device::widen<T>(x);
  }
};
template <class T>
struct UnpackDifference {
  __device__ static float apply(std::uint32_t pair) {
    return device::unpack_high<T>(pair) - 4.0f * device::unpack_low<T>(pair);
  }
};
struct RoundToTf32 {
  __device__ static std::uint32_t apply(float x) { return device::round_to_tf32(x); }
};
struct Same {
  __device__ static float apply(float x) {
    return device::widen<float>(
        device::narrow<float>(device::bits_as<float>(device::bits_as<std::uint32_t>(x))));
  }
};

// Ties, values beside them, limits of the ranges, subnormals of both types, of both signs.
std::vector<float> edges() {
  std::vector<float> values;
  for (const float x : {0.0f,
                        1.0f,
                        1.00048828125f,
                        1.00146484375f,
                        1.0009766f,
                        1.00390625f,
                        1.01171875f,
                        1.0039063f,
                        65504.0f,
                        65519.996f,
                        65520.0f,
                        6.1035156e-5f,
                        6.0975552e-5f,
                        5.9604645e-8f,
                        2.9802322e-8f,
                        2.9802326e-8f,
                        8.9406967e-8f,
                        1.1754944e-38f,
                        3.3895314e38f,
                        3.3961775e38f,
                        3.4028235e38f,
                        1e-40f,
                        std::numeric_limits<float>::infinity(),
                        0.1f,
                        3.14159274f})
    for (const float sign : {1.0f, -1.0f}) values.push_back(sign * x);
  return values;
}

template <class T>
void check_16_bits() {
  const std::vector<float> values = edges();
  const auto narrowed = apply<Narrow<T>, std::uint16_t>(values);
  const auto packed = apply<Pack<T>, std::uint32_t>(values);
  for (std::size_t i = 0; i < values.size(); ++i) {
    INFO(values[i]);
    CHECK(narrowed[i] == T(values[i]).bits);
    CHECK(packed[i] == (T(values[i]).bits | static_cast<std::uint32_t>(T(-2.0f * values[i]).bits) << 16));
  }
  CHECK(apply<Narrow<T>, std::uint16_t>(std::vector<float>{std::nanf("")})[0] == 0x7fff);  // PTX ISA, cvt

  std::vector<std::uint16_t> all(1 << 16);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint16_t>(i);
  const auto widened = apply<Widen<T>, float>(all);
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto expected = static_cast<float>(T::from_bits(all[i]));
    const bool both_nan = std::isnan(widened[i]) && std::isnan(expected);
    wrong += both_nan || std::bit_cast<std::uint32_t>(widened[i]) == std::bit_cast<std::uint32_t>(expected)
                 ? 0u
                 : 1u;
  }
  CHECK(wrong == 0);

  constexpr float infinity = std::numeric_limits<float>::infinity();
  const auto fused =
      apply<FusedPair<T>, std::uint32_t>(std::vector<float>{1.25f, -1.0f, infinity, std::nanf("")});
  const auto halves = [](float low, float high) {
    return T(low).bits | static_cast<std::uint32_t>(T(high).bits) << 16;
  };
  CHECK(fused[0] == halves(1.75f, 5.0f));
  CHECK(fused[1] == halves(-5.0f, 5.0f));
  CHECK((fused[2] & 0xffffu) == T(infinity).bits);
  CHECK(std::isnan(static_cast<float>(T::from_bits(static_cast<std::uint16_t>(fused[2] >> 16)))));
  CHECK(std::isnan(static_cast<float>(T::from_bits(static_cast<std::uint16_t>(fused[3])))));

  const std::uint32_t pair = T(3.0f).bits | static_cast<std::uint32_t>(T(0.5f).bits) << 16;
  CHECK(apply<UnpackDifference<T>, float>(std::vector<std::uint32_t>{pair})[0] == 0.5f - 4.0f * 3.0f);
}

}  // namespace

TEST_CASE("16-bit elements are rounded to nearest even and widened exactly") {
  check_16_bits<half>();
  check_16_bits<bfloat16>();
}

TEST_CASE("Elements of 32 bits pass through unchanged") { CHECK(apply<Same, float>(edges()) == edges()); }

TEST_CASE("round_to_tf32 keeps 10 bits of fraction and rounds ties away from zero") {
  // 1 + 2^-11 lies half way between 1 and 1 + 2^-10.
  const std::vector<float> values{
      1.0f,       1.00048828125f, -1.00048828125f, 1.00048816f,
      1.9997559f, 0.0f,           -0.0f,           std::numeric_limits<float>::infinity()};
  const std::vector<float> rounded{
      1.0f, 1.0009765625f, -1.0009765625f, 1.0f, 2.0f, 0.0f, -0.0f, std::numeric_limits<float>::infinity()};
  const auto found = apply<RoundToTf32, std::uint32_t>(values);
  for (std::size_t i = 0; i < values.size(); ++i) {
    INFO(values[i]);
    CHECK(found[i] == std::bit_cast<std::uint32_t>(rounded[i]));
  }
}
