// device/mma.cuh. The places of elements in registers are those of the PTX ISA, "Matrix fragments for
// mma.m16n8k16 with floating point type", "... mma.m16n8k8" and "... mma.m8n8k4 with .f64".
#include <algorithm>
#include <concepts>
#include <cstdint>

#include <cuda_runtime.h>

#include <cottention/device/memory.cuh>
#include <cottention/device/mma.cuh>
#include <cottention/device/thread.cuh>

#include "device/support.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

namespace device = cottention::device;
using cottention::bfloat16;
using cottention::half;
using device_test::DeviceArray;

struct Place {
  int row, column;
};

// The PTX ISA's formulas, with its names: i counts a thread's elements of one operand.
struct M16N8K16 {
  static constexpr int m = 16, n = 8, k = 16, a_elements = 8, b_elements = 4, d_elements = 4;
  static Place a(int lane, int i) {
    const int group_id = lane >> 2, thread_in_group = lane % 4;
    const bool upper = (0 <= i && i < 2) || (4 <= i && i < 6);
    return {upper ? group_id : group_id + 8, thread_in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0)};
  }
  static Place b(int lane, int i) { return {(lane % 4) * 2 + (i & 1) + (i >= 2 ? 8 : 0), lane >> 2}; }
  static Place d(int lane, int i) { return {(lane >> 2) + (i < 2 ? 0 : 8), (lane % 4) * 2 + (i & 1)}; }
};
struct M16N8K8 {
  static constexpr int m = 16, n = 8, k = 8, a_elements = 4, b_elements = 2, d_elements = 4;
  static Place a(int lane, int i) { return M16N8K16::a(lane, i); }
  static Place b(int lane, int i) { return M16N8K16::b(lane, i); }
  static Place d(int lane, int i) { return M16N8K16::d(lane, i); }
};
struct M16N8K8Tf32 {
  static constexpr int m = 16, n = 8, k = 8, a_elements = 4, b_elements = 2, d_elements = 4;
  static Place a(int lane, int i) {
    return {i == 0 || i == 2 ? lane >> 2 : (lane >> 2) + 8, i < 2 ? lane % 4 : lane % 4 + 4};
  }
  static Place b(int lane, int i) { return {i == 0 ? lane % 4 : lane % 4 + 4, lane >> 2}; }
  static Place d(int lane, int i) { return M16N8K16::d(lane, i); }
};
struct M8N8K4 {  // fp64
  static constexpr int m = 8, n = 8, k = 4, a_elements = 1, b_elements = 1, d_elements = 2;
  static Place a(int lane, int) { return {lane >> 2, lane % 4}; }
  static Place b(int lane, int) { return {lane % 4, lane >> 2}; }
  static Place d(int lane, int i) { return {lane >> 2, (lane % 4) * 2 + (i & 1)}; }
};

/// d += a b twice, each lane with its own registers.
template <class T, class Shape>
struct MultiplyToFloat {
  static constexpr std::size_t a_registers = Shape::a_elements * sizeof(T) / 4,
                               b_registers = Shape::b_elements * sizeof(T) / 4;
  struct Params {
    float* d;  // (lane, 4)
    const device::Vector<std::uint32_t, a_registers>* a;
    const device::Vector<std::uint32_t, b_registers>* b;
  };
  struct Storage {};
  static constexpr int threads = 32, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage&) {
    const int lane = device::lane_index();
    float d[4];
    for (int i = 0; i < 4; ++i) d[i] = device::load_global(params.d + 4 * lane + i);
    const auto a = device::load_global(params.a + lane);
    const auto b = device::load_global(params.b + lane);
    for (int repeat = 0; repeat < 2; ++repeat) {
      if constexpr (std::same_as<T, float>)
        device::mma_m16n8k8_tf32(d, a.values, b.values);
      else if constexpr (Shape::k == 8)
        device::mma_m16n8k8<T>(d, a.values, b[0]);
      else
        device::mma_m16n8k16<T>(d, a.values, b.values);
    }
    for (int i = 0; i < 4; ++i) device::store_global(params.d + 4 * lane + i, d[i]);
  }
};

struct MultiplyDouble {
  struct Params {
    double* d;  // (lane, 2)
    const double* a;
    const double* b;
  };
  struct Storage {};
  static constexpr int threads = 32, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage&) {
    const int lane = device::lane_index();
    double d[2] = {device::load_global(params.d + 2 * lane), device::load_global(params.d + 2 * lane + 1)};
    for (int repeat = 0; repeat < 2; ++repeat)
      device::mma_m8n8k4_f64(d, device::load_global(params.a + lane), device::load_global(params.b + lane));
    for (int i = 0; i < 2; ++i) device::store_global(params.d + 2 * lane + i, d[i]);
  }
};

/// Small integers: every product and sum is exact in every type, in any order.
struct Matrix {
  int rows, columns;
  std::vector<double> values;
  Matrix(int r, int c, std::uint64_t seed) : rows(r), columns(c) {
    support::Random random(seed);
    for (int i = 0; i < r * c; ++i) values.push_back(static_cast<double>(random.below(17) - 8));
  }
  double& at(Place p) { return values[static_cast<std::size_t>(p.row * columns + p.column)]; }
};

// The elements of one operand in the order of lanes, then of the lanes' own elements.
template <class T, class PlaceOf>
std::vector<T> fragments(Matrix& matrix, int elements, PlaceOf place) {
  std::vector<T> all;
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < elements; ++i) {
      const double value = matrix.at(place(lane, i));
      if constexpr (sizeof(T) == 2)
        all.push_back(T(static_cast<float>(value)));
      else
        all.push_back(static_cast<T>(value));
    }
  return all;
}

template <class Kernel, class Shape, class T, class Sum>
void check_product(Matrix a, Matrix b, Matrix d, Matrix expected) {
  DeviceArray<T> a_global(fragments<T>(a, Shape::a_elements, Shape::a));
  DeviceArray<T> b_global(fragments<T>(b, Shape::b_elements, Shape::b));
  DeviceArray<Sum> d_global(fragments<Sum>(d, Shape::d_elements, Shape::d));
  typename Kernel::Params params{};
  params.d = d_global.data();
  params.a = reinterpret_cast<decltype(params.a)>(a_global.data());
  params.b = reinterpret_cast<decltype(params.b)>(b_global.data());
  device_test::run<Kernel>({}, params);
  CHECK(d_global.values() == fragments<Sum>(expected, Shape::d_elements, Shape::d));
}

template <class Kernel, class Shape, class T, class Sum>
void check_product() {
  constexpr std::uint64_t seed = 20;
  INFO("seed " << seed);
  Matrix a(Shape::m, Shape::k, seed), b(Shape::k, Shape::n, seed + 1), d(Shape::m, Shape::n, seed + 2);
  Matrix expected = d;
  for (int i = 0; i < Shape::m; ++i)
    for (int j = 0; j < Shape::n; ++j)
      for (int k = 0; k < Shape::k; ++k) expected.at({i, j}) += 2 * a.at({i, k}) * b.at({k, j});
  check_product<Kernel, Shape, T, Sum>(a, b, d, expected);
}

/// Sums of 1 or -1 and one product that is three quarters of the last bit of it.
template <class T, class Shape>
void check_cut_off() {
  Matrix a(Shape::m, Shape::k, 1), b(Shape::k, Shape::n, 1), d(Shape::m, Shape::n, 1);
  for (Matrix* x : {&a, &b}) std::fill(x->values.begin(), x->values.end(), 0);
  for (int i = 0; i < Shape::m; ++i) a.at({i, i % Shape::k}) = 0x1.8p-12;
  for (int k = 0; k < Shape::k; ++k)
    for (int j = 0; j < Shape::n; ++j) b.at({k, j}) = j % 2 == 0 ? 0x1p-12 : -0x1p-12;
  for (int i = 0; i < Shape::m; ++i)
    for (int j = 0; j < Shape::n; ++j) d.at({i, j}) = j % 2 == 0 ? 1 : -1;
  check_product<MultiplyToFloat<T, Shape>, Shape, T, float>(a, b, d, d);
}

}  // namespace

TEST_CASE(
    "mma_m16n8k16 and mma_m16n8k8 multiply half and bfloat16 elements in the places the PTX ISA gives") {
  device_test::in_every_schedule([] {
    check_product<MultiplyToFloat<half, M16N8K16>, M16N8K16, half, float>();
    check_product<MultiplyToFloat<bfloat16, M16N8K16>, M16N8K16, bfloat16, float>();
    check_product<MultiplyToFloat<half, M16N8K8>, M16N8K8, half, float>();
    check_product<MultiplyToFloat<bfloat16, M16N8K8>, M16N8K8, bfloat16, float>();
  });
}

TEST_CASE("mma_m16n8k8_tf32 multiplies tf32 elements in the places the PTX ISA gives") {
  device_test::in_every_schedule(
      [] { check_product<MultiplyToFloat<float, M16N8K8Tf32>, M16N8K8Tf32, float, float>(); });
}

TEST_CASE("mma_m8n8k4_f64 multiplies fp64 elements in the places the PTX ISA gives") {
  device_test::in_every_schedule([] { check_product<MultiplyDouble, M8N8K4, double, double>(); });
}

// arXiv 2512.07004, arXiv 2511.10909.
TEST_CASE("mma cuts sums in fp32 off towards zero") {
  device_test::in_every_schedule([] {
    check_cut_off<half, M16N8K16>();
    check_cut_off<bfloat16, M16N8K16>();
    check_cut_off<half, M16N8K8>();
    check_cut_off<bfloat16, M16N8K8>();
    check_cut_off<float, M16N8K8Tf32>();
  });
}

TEST_CASE("mma_m8n8k4_f64 rounds each sum, and no product") {
  device_test::in_every_schedule([] {
    using Shape = M8N8K4;
    Matrix a(Shape::m, Shape::k, 1), b(Shape::k, Shape::n, 1), d(Shape::m, Shape::n, 1), expected = d;
    for (Matrix* x : {&a, &b}) std::fill(x->values.begin(), x->values.end(), 0);
    for (int i = 0; i < Shape::m; ++i) a.at({i, i % Shape::k}) = 1 + 0x1p-30;
    for (double& x : b.values) x = 1 - 0x1p-30;
    std::fill(d.values.begin(), d.values.end(), -2);
    std::fill(expected.values.begin(), expected.values.end(), -0x1p-60);  // -1 is left by the first product
    check_product<MultiplyDouble, Shape, double, double>(a, b, d, expected);
  });
}
