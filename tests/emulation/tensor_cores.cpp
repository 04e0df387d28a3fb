// The sums of tensor cores as the emulator and the PTX machine have them, by values worked out by hand from
// emulation/tensor_cores.hpp. Those of a GPU are in tests/device.
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

#include <emulation.hpp>

#include "support/catch.hpp"

namespace {

using namespace cottention::emulation;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float greatest = std::numeric_limits<float>::max();
constexpr float last_bit = 0x1p-23f;  // of 1

/// Factors of a product.
using Product = std::pair<float, float>;
/// Of a product in its place among others that are 0.
struct At {
  std::size_t k;
  float a, b;
};

/// d and the products, at the places given. In the first column; the others stay as they are.
float sum(TensorCores cores, Factor factor, float d, const std::vector<At>& products) {
  const std::size_t depth = factor == Factor::tf32 ? 8 : 16;
  std::vector<float> a(depth), b(depth * 8), sums(8, 0.5f);
  sums[0] = d;
  for (const At& at : products) {
    a[at.k] = at.a;
    b[at.k * 8] = at.b;
  }
  add_products(cores, factor, 1, 8, depth, sums.data(), a.data(), b.data());
  for (std::size_t j = 1; j < 8; ++j)
    if (std::isfinite(sums[0])) CHECK(sums[j] == 0.5f);
  return sums[0];
}

float sum(TensorCores cores, float d, const std::vector<Product>& products) {
  std::vector<At> at;
  for (const auto& [a, b] : products) at.push_back({at.size(), a, b});
  return sum(cores, Factor::tf32, d, at);
}

constexpr TensorCores both[] = {hopper, ampere};

}  // namespace

TEST_CASE("Tensor cores cut sums off towards 0") {
  for (const TensorCores cores : both)
    for (const float sign : {1.0f, -1.0f}) {
      CHECK(sum(cores, sign, {{sign * 0x1.8p-12f, 0x1p-12f}}) == sign);
      CHECK(sum(cores, sign, {{sign * 0x1p-11f, 0x1p-12f}}) == sign * (1 + last_bit));
    }
  CHECK(sum(rounded, 1, {{0x1.8p-12f, 0x1p-12f}}) == 1 + last_bit);
}

TEST_CASE("Tensor cores cut numbers off two bits below fp32's last, those of Ampere one") {
  CHECK(sum(hopper, 1, {{-0x1p-25f, 1}}) == 1 - 0x1p-24f);  // 1 - 2^-25, cut off
  CHECK(sum(hopper, 1, {{-0x1p-26f, 1}}) == 1);
  CHECK(sum(ampere, 1, {{-0x1p-24f, 1}}) == 1 - 0x1p-24f);
  CHECK(sum(ampere, 1, {{-0x1p-25f, 1}}) == 1);
  CHECK(sum(hopper, 0, {{1, 1}, {-1, 1}, {0x1p-25f, 1}}) == 0x1p-25f);
  CHECK(sum(hopper, 0, {{1, 1}, {-1, 1}, {0x1.8p-25f, 1}}) == 0x1p-25f);
  CHECK(sum(ampere, 0, {{1, 1}, {-1, 1}, {0x1.8p-24f, 1}}) == 0x1p-24f);
  CHECK(sum(ampere, 0, {{1, 1}, {-1, 1}, {0x1p-25f, 1}}) == 0);
}

TEST_CASE("Tensor cores add a block of products at once") {
  const std::vector<Product> small(8, {0x1p-25f, 1});
  CHECK(sum(hopper, 1, small) == 1 + 2 * last_bit);
  CHECK(sum(ampere, 1, small) == 1);
  CHECK(sum(rounded, 1, small) == 1);
  // Half a bit each, in one block or in two.
  const auto at = [](std::size_t k) { return At{k, 0x1p-12f, 0x1p-12f}; };
  CHECK(sum(hopper, Factor::tf32, 1, {at(3), at(4)}) == 1 + last_bit);
  CHECK(sum(ampere, Factor::tf32, 1, {at(3), at(4)}) == 1);
  CHECK(sum(ampere, Factor::tf32, 1, {at(4), at(7)}) == 1 + last_bit);
  for (const Factor factor : {Factor::half, Factor::bfloat16}) {  // twice as many
    CHECK(sum(hopper, factor, 1, {at(0), at(15)}) == 1 + last_bit);
    CHECK(sum(ampere, factor, 1, {at(7), at(8)}) == 1);
    CHECK(sum(ampere, factor, 1, {at(0), at(7)}) == 1 + last_bit);
  }
}

TEST_CASE("The exponent of a product is the sum of those of its factors") {
  // 2.25 has the exponent 1, the product 0.
  CHECK(sum(hopper, 0x1p-25f, {{1.5f, 1.5f}, {-1.5f, 1.5f}}) == 0x1p-25f);
  CHECK(sum(ampere, 0x1p-24f, {{1.5f, 1.5f}, {-1.5f, 1.5f}}) == 0x1p-24f);
  // A subnormal number of half's has the least exponent of its type, 0 that of fp32.
  CHECK(sum(hopper, Factor::half, 0x1p-40f, {{0, 0x1p-24f, 1}}) == 0x1p-24f);
  CHECK(sum(hopper, Factor::bfloat16, 0x1p-40f, {{0, 0x1p-24f, 1}}) == 0x1p-24f + 0x1p-40f);
  CHECK(sum(hopper, Factor::half, 0x1p-40f, {{0, 0, 1}}) == 0x1p-40f);
}

TEST_CASE("Sums of tensor cores end at fp32's range, and infinity and NaN go through them") {
  for (const TensorCores cores : both) {
    CHECK(sum(cores, greatest, {{0x1p60f, 0x1p43f}}) == greatest);  // half a bit
    CHECK(sum(cores, greatest, {{0x1p60f, 0x1p44f}}) == infinity);
    CHECK(sum(cores, -greatest, {{0x1p60f, -0x1p44f}}) == -infinity);
    CHECK(sum(cores, Factor::tf32, greatest, {{0, 0x1p60f, 0x1p44f}, {7, -0x1p60f, 0x1p44f}}) ==
          (cores == hopper ? greatest : infinity));
    CHECK(sum(cores, infinity, {{-1, 1}}) == infinity);
    CHECK(sum(cores, 0, {{-infinity, 1}}) == -infinity);
    CHECK(std::isnan(sum(cores, 0, {{infinity, 0}})));
    CHECK(std::isnan(sum(cores, infinity, {{-infinity, 1}})));
    CHECK(sum(cores, 0x1p-149f, {{0x1p-140f, 0x1p-9f}}) == 0x1p-148f);
  }
}

TEST_CASE("Options say which tensor cores are emulated") {
  CHECK(Options{}.tensor_cores == tensor_cores_from_environment());
}
