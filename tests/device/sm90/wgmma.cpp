// device/wgmma.cuh. Where elements lie in shared memory is the PTX ISA's "Canonical layouts" of wgmma, where
// in registers its "Register fragments for wgmma.mma_async.m64nNk16".
#include <cstdint>
#include <type_traits>

#include <cuda_runtime.h>

#include <cottention/device/barrier.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/device/tma.cuh>
#include <cottention/device/wgmma.cuh>

#include "device/support.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

namespace device = cottention::device;
using cottention::bfloat16;
using cottention::half;
using device::Major;
using device::Swizzle;
using device_test::DeviceArray;

constexpr int m = 64, depth = 64, steps = depth / 16;

/// Where the operands lie: a is (m, depth), b is (n, depth).
enum class Place { shared, registers };
template <class T, int columns, Place a_at, Major a_major, Major b_major, Swizzle swizzle>
struct Case {
  using Element = T;
  static constexpr int n = columns;
  static constexpr Place a_place = a_at;
  static constexpr Major a = a_major, b = b_major;
  static constexpr Swizzle mode = swizzle;
};

/// An operand of `rows` x depth in panels, each as wide as the swizzle's span along the major dimension.
template <int rows, Major major, Swizzle swizzle>
struct Layout {
  static constexpr int span = 16 << static_cast<int>(swizzle);  // bytes
  static constexpr int width = span / 2;                        // elements
  static constexpr int lines = major == Major::k ? rows : depth;
  static constexpr int panel = lines * span;  // bytes
  static constexpr int panels = ((major == Major::k ? depth : rows) + width - 1) / width;
  static constexpr int bytes = panels * panel;

  // PTX ISA: the offset of element (row, k), before and after the swizzle.
  static int offset(int row, int k) {
    const int along = major == Major::k ? k : row, line = major == Major::k ? row : k;
    const int plain = along / width * panel + line * span + along % width * 2;
    const int bits = static_cast<int>(swizzle);
    return plain ^ (((plain >> 7) & ((1 << bits) - 1)) << 4);
  }

  /// Of the 16 columns from k = 16 step on.
  __device__ static device::MatrixDescriptor descriptor(const void* shared, int step) {
    if constexpr (major == Major::k) {
      const auto first = device::matrix_descriptor(shared, panel, 8 * span, swizzle);
      return first + (16 * step / width * panel + 16 * step % width * 2);
    } else {
      constexpr bool exchanged = swizzle == Swizzle::none;
      const auto first = device::matrix_descriptor(shared, exchanged ? 8 * span : panel,
                                                   exchanged ? panel : 8 * span, swizzle);
      return first + 16 * step * span;
    }
  }
};

/// d = a b^T, twice; the second time with the steps in the opposite order and added to the first.
template <class C>
struct Multiply {
  using A = Layout<m, C::a, C::mode>;
  using B = Layout<C::n, C::b, C::mode>;
  struct Params {
    float* out;                     // (thread, n / 2)
    const std::uint32_t* a_shared;  // as it is to lie in shared memory
    const std::uint32_t* b_shared;
    const std::uint32_t* a_registers;  // (thread, step, 4)
  };
  struct Storage {
    alignas(1024) std::uint32_t a[A::bytes / 4];
    alignas(1024) std::uint32_t b[B::bytes / 4];
  };
  static constexpr int threads = 128, min_blocks_per_sm = 1;

  __device__ static void multiply(float (&d)[C::n / 2], const std::uint32_t (&a)[steps][4],
                                  const Storage& storage, int step, device::Sum sum) {
    using T = typename C::Element;
    if constexpr (C::a_place == Place::shared)
      device::wgmma_m64k16<T, C::n, C::a, C::b>(d, A::descriptor(storage.a, step),
                                                B::descriptor(storage.b, step), sum);
    else
      device::wgmma_m64k16<T, C::n, C::b>(d, a[step], B::descriptor(storage.b, step), sum);
  }

  __device__ static void run(const Params& params, Storage& storage) {
    const int thread = device::thread_index();
    for (int i = thread; i < A::bytes / 4; i += threads)
      device::store_shared(&storage.a[i], device::load_global(params.a_shared + i));
    for (int i = thread; i < B::bytes / 4; i += threads)
      device::store_shared(&storage.b[i], device::load_global(params.b_shared + i));
    std::uint32_t a[steps][4];
    for (int step = 0; step < steps; ++step)
      for (int i = 0; i < 4; ++i)
        a[step][i] = device::load_global(params.a_registers + (thread * steps + step) * 4 + i);
    device::fence_proxy_async();
    device::sync_block();  // both operands are written, and shown to the tensor cores

    float d[C::n / 2];
    for (float& x : d) x = 1e30f;  // Sum::start must not see it
    device::wgmma_fence();
#pragma unroll
    for (int step = 0; step < steps; ++step)
      multiply(d, a, storage, step, step == 0 ? device::Sum::start : device::Sum::add);
    device::wgmma_commit();
#pragma unroll
    for (int step = steps - 1; step >= 0; --step) multiply(d, a, storage, step, device::Sum::add);
    device::wgmma_commit();
    device::wgmma_wait<0>();
    device::pin_registers(d);
    for (int i = 0; i < C::n / 2; ++i) device::store_global(params.out + thread * (C::n / 2) + i, d[i]);
  }
};

using Matrix = std::vector<float>;  // (rows, depth)

Matrix small_integers(int rows, std::uint64_t seed) {
  support::Random random(seed);
  Matrix matrix(static_cast<std::size_t>(rows * depth));
  for (float& x : matrix) x = static_cast<float>(random.below(9) - 4);
  return matrix;
}

template <class T>
std::uint32_t bits_at(const Matrix& matrix, int row, int k) {
  return T(matrix[static_cast<std::size_t>(row * depth + k)]).bits;
}

template <class T, class Lay>
std::vector<std::uint32_t> image(const Matrix& matrix) {
  std::vector<std::uint32_t> all(static_cast<std::size_t>(Lay::bytes / 4));
  for (int row = 0; row < static_cast<int>(matrix.size()) / depth; ++row)
    for (int k = 0; k < depth; ++k) {
      const int at = Lay::offset(row, k);
      all[static_cast<std::size_t>(at / 4)] |= bits_at<T>(matrix, row, k) << (at % 4 * 8);
    }
  return all;
}

// Thread t's elements of a, of which a register holds two: Figure "WGMMA .m64nNk16 register fragment layout
// for matrix A".
template <class T>
std::vector<std::uint32_t> registers(const Matrix& a) {
  std::vector<std::uint32_t> all;
  for (int thread = 0; thread < 128; ++thread)
    for (int step = 0; step < steps; ++step)
      for (int i = 0; i < 4; ++i) {
        const int row = thread / 32 * 16 + thread % 32 / 4 + i % 2 * 8,
                  k = 16 * step + thread % 4 * 2 + i / 2 * 8;
        all.push_back(bits_at<T>(a, row, k) | bits_at<T>(a, row, k + 1) << 16);
      }
  return all;
}

/// What the kernel makes of a and b, against sum(row, column), twice.
template <class C, class Sum>
void check_product(const Matrix& a, const Matrix& b, Sum sum) {
  using T = typename C::Element;
  DeviceArray<std::uint32_t> a_shared(image<T, typename Multiply<C>::A>(a));
  DeviceArray<std::uint32_t> b_shared(image<T, typename Multiply<C>::B>(b));
  DeviceArray<std::uint32_t> a_registers(registers<T>(a));
  const std::vector<float> found = device_test::output<Multiply<C>, float, const std::uint32_t*,
                                                       const std::uint32_t*, const std::uint32_t*>(
      128 * C::n / 2, a_shared.data(), b_shared.data(), a_registers.data());
  std::vector<float> expected;
  for (int thread = 0; thread < 128; ++thread)
    for (int i = 0; i < C::n / 2; ++i)  // Figure "... for accumulator matrix D"
      expected.push_back(
          2 * sum(thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8, i / 4 * 8 + thread % 4 * 2 + i % 2));
  CHECK(found == expected);
}

template <class C>
void check_product() {
  constexpr std::uint64_t seed = 31;
  INFO("seed " << seed << ", n " << C::n << ", swizzle " << static_cast<int>(C::mode));
  const Matrix a = small_integers(m, seed), b = small_integers(C::n, seed + 1);
  check_product<C>(a, b, [&](int row, int column) {
    float sum = 0;
    for (int k = 0; k < depth; ++k)
      sum += a[static_cast<std::size_t>(row * depth + k)] * b[static_cast<std::size_t>(column * depth + k)];
    return sum;
  });
}

template <class T, int n, Major a_major, Major b_major>
void check_swizzles() {
  check_product<Case<T, n, Place::shared, a_major, b_major, Swizzle::none>>();
  check_product<Case<T, n, Place::shared, a_major, b_major, Swizzle::bytes_32>>();
  check_product<Case<T, n, Place::shared, a_major, b_major, Swizzle::bytes_64>>();
  check_product<Case<T, n, Place::shared, a_major, b_major, Swizzle::bytes_128>>();
}

}  // namespace

TEST_CASE("wgmma multiplies operands whose neighbours lie along the summed dimension, in every swizzle") {
  device_test::in_every_schedule([] { check_swizzles<bfloat16, 64, Major::k, Major::k>(); });
}

TEST_CASE("wgmma multiplies operands whose neighbours lie along rows and columns, in every swizzle") {
  device_test::in_every_schedule([] {
    check_swizzles<bfloat16, 64, Major::mn, Major::mn>();
    check_swizzles<half, 128, Major::k, Major::mn>();
  });
}

TEST_CASE("wgmma takes a from registers") {
  device_test::in_every_schedule([] {
    check_product<Case<bfloat16, 64, Place::registers, Major::k, Major::k, Swizzle::bytes_128>>();
    check_product<Case<half, 64, Place::registers, Major::k, Major::mn, Swizzle::bytes_128>>();
  });
}

TEST_CASE("wgmma has as many columns as a multiple of 8 up to 256") {
  device_test::in_every_schedule([] {
    check_product<Case<half, 8, Place::shared, Major::k, Major::k, Swizzle::bytes_128>>();
    check_product<Case<bfloat16, 24, Place::shared, Major::k, Major::k, Swizzle::bytes_64>>();
    check_product<Case<half, 104, Place::registers, Major::k, Major::k, Swizzle::bytes_128>>();
    check_product<Case<bfloat16, 256, Place::shared, Major::mn, Major::mn, Swizzle::bytes_128>>();
  });
}

// arXiv 2512.07004, arXiv 2511.10909.
TEST_CASE("wgmma cuts sums off towards zero") {
  device_test::in_every_schedule([] {
    const auto row_of = [](float first, float other) {
      Matrix row(depth);
      for (std::size_t k = 0; k < depth; k += 16) row[k] = k == 0 ? first : other;
      return row;
    };
    // 1 of either sign, and then three times three quarters of the last bit of it.
    Matrix a, b;
    for (int row = 0; row < m; ++row)
      for (const float x : row_of(row % 2 == 0 ? 1 : -1, row % 2 == 0 ? 0x1p-12f : -0x1p-12f)) a.push_back(x);
    for (int column = 0; column < 8; ++column)
      for (const float x : row_of(1, 0x1.8p-12f)) b.push_back(x);
    check_product<Case<bfloat16, 8, Place::shared, Major::k, Major::k, Swizzle::bytes_128>>(
        a, b, [](int row, int) { return row % 2 == 0 ? 1.0f : -1.0f; });
  });
}
