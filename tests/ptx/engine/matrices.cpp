// Products in tensor cores, and their operands in shared memory. Sums in fp32 are those that the emulator
// has, sums in fp64 are rounded in the order of k. Fragments: PTX ISA, "Matrix Fragments".
#include <cmath>

#include "../../emulation/include/emulation/tensor_cores.hpp"
#include "forms.hpp"

namespace cottention::ptx {
namespace {

using emulation::Factor;

struct Bfloat {
  static constexpr Factor factor = Factor::bfloat16;
  static float widen(std::uint32_t bits) { return std::bit_cast<float>(bits << 16); }
};
struct Half {
  static constexpr Factor factor = Factor::half;
  static float widen(std::uint32_t bits) {
    return static_cast<float>(std::bit_cast<_Float16>(static_cast<std::uint16_t>(bits)));
  }
};

/// c += a b for 16 rows and 8 columns.
template <std::size_t depth>
void multiply(Factor factor, const float (&a)[16][depth], const float (&b)[depth][8], float (&c)[16][8]) {
  emulation::add_products(emulation::tensor_cores_from_environment(), factor, 16, 8, depth, c[0], a[0], b[0]);
}

/// Sums between registers at o[first] up and a matrix.
struct Sums {
  float c[16][8];
  Sums(Warp& w, const Instruction& i, int first) {
    for (int e = 0; e < 4; ++e) {
      const std::uint32_t* const from = w.at<std::uint32_t>(i.o[first + e]);
      for (int l = 0; l < lanes; ++l)
        c[l / 4 + 8 * (e / 2)][2 * (l % 4) + e % 2] = std::bit_cast<float>(from[l]);
    }
  }
  void store(Warp& w, const Instruction& i) const {
    for (int e = 0; e < 4; ++e) {
      std::uint32_t* const to = w.at<std::uint32_t>(i.o[e]);
      for (int l = 0; l < lanes; ++l)
        to[l] = std::bit_cast<std::uint32_t>(c[l / 4 + 8 * (e / 2)][2 * (l % 4) + e % 2]);
    }
  }
};

/// mma.m16n8k16 and mma.m16n8k8, of 16-bit elements.
template <class T, int depth>
void mma_16(Warp& w, const Instruction& i) {
  constexpr int a_registers = depth / 4, b_registers = depth / 8;
  float a[16][depth], b[depth][8];
  for (int r = 0; r < a_registers; ++r) {
    const std::uint32_t* const from = w.at<std::uint32_t>(i.o[4 + r]);
    for (int l = 0; l < lanes; ++l) {
      float* const to = &a[l / 4 + 8 * (r % 2)][2 * (l % 4) + 8 * (r / 2)];
      to[0] = T::widen(from[l] & 0xffff);
      to[1] = T::widen(from[l] >> 16);
    }
  }
  for (int r = 0; r < b_registers; ++r) {
    const std::uint32_t* const from = w.at<std::uint32_t>(i.o[4 + a_registers + r]);
    for (int l = 0; l < lanes; ++l) {
      b[2 * (l % 4) + 8 * r][l / 4] = T::widen(from[l] & 0xffff);
      b[2 * (l % 4) + 8 * r + 1][l / 4] = T::widen(from[l] >> 16);
    }
  }
  Sums sums(w, i, 4 + a_registers + b_registers);
  multiply(T::factor, a, b, sums.c);
  sums.store(w, i);
}

/// mma.m16n8k8, of tf32: the lower 13 bits do not count.
void mma_tf32(Warp& w, const Instruction& i) {
  const auto cut = [](std::uint32_t bits) { return std::bit_cast<float>(bits & 0xffffe000u); };
  float a[16][8], b[8][8];
  for (int r = 0; r < 4; ++r) {
    const std::uint32_t* const from = w.at<std::uint32_t>(i.o[4 + r]);
    for (int l = 0; l < lanes; ++l) a[l / 4 + 8 * (r % 2)][l % 4 + 4 * (r / 2)] = cut(from[l]);
  }
  for (int r = 0; r < 2; ++r) {
    const std::uint32_t* const from = w.at<std::uint32_t>(i.o[8 + r]);
    for (int l = 0; l < lanes; ++l) b[l % 4 + 4 * r][l / 4] = cut(from[l]);
  }
  Sums sums(w, i, 10);
  multiply(Factor::tf32, a, b, sums.c);
  sums.store(w, i);
}

/// mma.m8n8k4, of fp64.
void mma_f64(Warp& w, const Instruction& i) {
  const auto number = [&](int operand, int lane) {
    return std::bit_cast<double>(w.at<std::uint64_t>(i.o[operand])[lane]);
  };
  double d[lanes][2];
  for (int l = 0; l < lanes; ++l)
    for (int e = 0; e < 2; ++e) {
      const int row = l / 4, column = 2 * (l % 4) + e;
      double sum = number(4 + e, l);
      for (int k = 0; k < 4; ++k) sum = std::fma(number(2, 4 * row + k), number(3, 4 * column + k), sum);
      d[l][e] = sum;
    }
  for (int e = 0; e < 2; ++e)
    for (int l = 0; l < lanes; ++l) w.at<std::uint64_t>(i.o[e])[l] = std::bit_cast<std::uint64_t>(d[l][e]);
}

/// Row `row` of matrix `matrix`, 16 bytes, at the address that lane 8 matrix + row gives.
std::uint8_t* row_of(Warp& w, const Instruction& i, std::uint32_t place, int matrix, int row) {
  const int lane = 8 * matrix + row;
  return w.memory(i, lane, Space::shared, w.address(i, place, lane), 16);
}

template <int count, bool transposed>
void load_matrices(Warp& w, const Instruction& i) {
  for (int m = 0; m < count; ++m) {
    std::uint16_t elements[8][8];
    for (int row = 0; row < 8; ++row) std::memcpy(elements[row], row_of(w, i, i.o[count], m, row), 16);
    std::uint32_t* const d = w.at<std::uint32_t>(i.o[m]);
    for (int l = 0; l < lanes; ++l) {
      const int r = l / 4, c = 2 * (l % 4);
      d[l] = transposed ? elements[c][r] | std::uint32_t{elements[c + 1][r]} << 16
                        : elements[r][c] | std::uint32_t{elements[r][c + 1]} << 16;
    }
  }
}

template <int count>
void store_matrices(Warp& w, const Instruction& i) {
  for (int m = 0; m < count; ++m) {
    const std::uint32_t* const a = w.at<std::uint32_t>(i.o[1 + m]);
    for (int row = 0; row < 8; ++row) {
      const std::uint32_t bits[4] = {a[4 * row], a[4 * row + 1], a[4 * row + 2], a[4 * row + 3]};
      std::memcpy(row_of(w, i, i.o[0], m, row), bits, 16);
    }
  }
}

}  // namespace

void add_matrices(Forms& f) {
  const char* const products = "WWWWwwwwwwwwww";
  f["mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"] = {mma_16<Bfloat, 16>, products, Kind::converged};
  f["mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"] = {mma_16<Half, 16>, products, Kind::converged};
  const char* const short_products = "WWWWwwwwwww";
  f["mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32"] = {mma_16<Bfloat, 8>, short_products,
                                                             Kind::converged};
  f["mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32"] = {mma_16<Half, 8>, short_products, Kind::converged};
  f["mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"] = {mma_tf32, products, Kind::converged};
  f["mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64"] = {mma_f64, "DDdddd", Kind::converged};
  f["ldmatrix.sync.aligned.m8n8.x4.shared.b16"] = {load_matrices<4, false>, "WWWWa", Kind::converged};
  f["ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16"] = {load_matrices<4, true>, "WWWWa", Kind::converged};
  f["stmatrix.sync.aligned.m8n8.x4.shared.b16"] = {store_matrices<4>, "awwww", Kind::converged};
}

}  // namespace cottention::ptx
