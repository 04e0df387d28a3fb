// mma.sync. The fragment layouts are those of the PTX ISA, "Matrix fragments for mma.m16n8k16 / m16n8k8 /
// m8n8k4".
#include <cmath>

#include "block.hpp"
#include "fragments.hpp"

namespace cottention::emulation {
namespace {

constexpr std::size_t m = 16, n = 8;

struct Argument {
  float* d;
  const std::uint32_t* a;
  const std::uint32_t* b;
};
using Lanes = std::array<Argument*, warp_size>;

template <std::size_t depth>
void multiply_add(const Lanes& lanes, Factor factor, const float (&a)[m][depth], const float (&b)[depth][n]) {
  float d[m][n];
  for (std::size_t lane = 0; lane < lanes.size(); ++lane)
    for (std::size_t i = 0; i < 4; ++i) d[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2] = lanes[lane]->d[i];
  add_products(options().tensor_cores, factor, m, n, depth, d[0], a[0], b[0]);
  for (std::size_t lane = 0; lane < lanes.size(); ++lane)
    for (std::size_t i = 0; i < 4; ++i) lanes[lane]->d[i] = d[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
}

template <class Value>
void multiply_16bit(const Lanes& lanes, Factor factor, Value value) {
  float a[m][16], b[16][n];
  for (std::size_t lane = 0; lane < lanes.size(); ++lane) {
    const std::size_t g = lane / 4, t = 2 * (lane % 4);
    for (std::size_t r = 0; r < 4; ++r) {
      a[g + 8 * (r % 2)][t + 8 * (r / 2)] = value(lanes[lane]->a[r] & 0xffffu);
      a[g + 8 * (r % 2)][t + 8 * (r / 2) + 1] = value(lanes[lane]->a[r] >> 16);
    }
    for (std::size_t r = 0; r < 2; ++r) {
      b[t + 8 * r][g] = value(lanes[lane]->b[r] & 0xffffu);
      b[t + 8 * r + 1][g] = value(lanes[lane]->b[r] >> 16);
    }
  }
  multiply_add(lanes, factor, a, b);
}

void multiply_tf32(const Lanes& lanes) {
  float a[m][8], b[8][n];
  for (std::size_t lane = 0; lane < lanes.size(); ++lane) {
    const std::size_t g = lane / 4, t = lane % 4;
    for (std::size_t r = 0; r < 4; ++r) a[g + 8 * (r % 2)][t + 4 * (r / 2)] = tf32_value(lanes[lane]->a[r]);
    for (std::size_t r = 0; r < 2; ++r) b[t + 4 * r][g] = tf32_value(lanes[lane]->b[r]);
  }
  multiply_add(lanes, Factor::tf32, a, b);
}

}  // namespace

void multiply(Operand operand, float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
              Where where) {
  Argument argument{d, a, b};
  const Entry entry(where);
  Block& current = block();
  current.together("mma.sync", static_cast<std::uint64_t>(operand), argument, where, [&](const Lanes& lanes) {
    ++current.statistics().products;
    switch (operand) {
      case Operand::half:
        return multiply_16bit(lanes, Factor::half, [](std::uint32_t bits) { return half_value(bits); });
      case Operand::bfloat16:
        return multiply_16bit(lanes, Factor::bfloat16,
                              [](std::uint32_t bits) { return bfloat16_value(bits); });
      case Operand::tf32:
        return multiply_tf32(lanes);
    }
  });
}

void multiply(double (&d)[2], double a, double b, Where where) {
  struct DoubleArgument {
    double* d;
    double a, b;
  } argument{d, a, b};
  const Entry entry(where);
  Block& current = block();
  current.together("mma.sync.f64", 0, argument, where, [&](const auto& lanes) {
    ++current.statistics().products;
    for (std::size_t lane = 0; lane < lanes.size(); ++lane)
      for (std::size_t e = 0; e < 2; ++e) {
        const std::size_t i = lane / 4, j = 2 * (lane % 4) + e;
        for (std::size_t k = 0; k < 4; ++k)
          lanes[lane]->d[e] = std::fma(lanes[4 * i + k]->a, lanes[4 * j + k]->b, lanes[lane]->d[e]);
      }
  });
}

}  // namespace cottention::emulation
