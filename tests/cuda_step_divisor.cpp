// tile/divisor.cuh
#include <cstdint>
#include <vector>

#include <cottention/device/launch.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/tile/divisor.cuh>

#include "support/catch.hpp"
#include "support/mirror.hpp"
#include "support/random.hpp"

namespace {

namespace device = cottention::device;

constexpr int numbers = 32;

/// Divides each of 32 numbers by each of 32 divisors.
struct Divide {
  struct Params {
    cottention::tile::Divisor divisors[numbers];
    const std::uint32_t* n;
    std::uint32_t* quotients;
    std::uint32_t* remainders;
  };
  struct Storage {};
  static constexpr int threads = numbers, min_blocks_per_sm = 1;

  __device__ static void run(const Params& params, Storage&) {
    const std::uint32_t n = device::load_global(params.n + device::thread_index());
    for (int i = 0; i < numbers; ++i) {
      const std::uint32_t quotient = params.divisors[i].quotient(n);
      device::store_global(params.quotients + i * numbers + device::thread_index(), quotient);
      device::store_global(params.remainders + i * numbers + device::thread_index(),
                           params.divisors[i].remainder(n, quotient));
    }
  }
};

/// Numbers of all magnitudes from `least` to 2^31 - 1, the ends among them.
std::vector<std::uint32_t> draw(support::Random& random, std::uint32_t least) {
  std::vector<std::uint32_t> some{least, least + 1, 0x7fffffffu, 0x7ffffffeu, 0x40000000u, 0x3fffffffu};
  while (some.size() < numbers) {
    const auto bits = static_cast<std::uint32_t>(random.bits()) >> (1 + random.below(31));
    if (bits >= least) some.push_back(bits);
  }
  return some;
}

}  // namespace

TEST_CASE("A divisor divides every number below 2^31 by every other") {
  support::Random random(1);
  for (int round = 0; round < 100; ++round) {
    std::vector<std::uint32_t> n = draw(random, 0), quotients(numbers * numbers),
                               remainders(numbers * numbers);
    const std::vector<std::uint32_t> divisors = draw(random, 1);
    support::Mirror mirror;
    Divide::Params params{};
    for (int i = 0; i < numbers; ++i) params.divisors[i] = cottention::tile::Divisor(divisors.data()[i]);
    params.n = mirror.array<const std::uint32_t>(n.data(), numbers);
    params.quotients = mirror.array(quotients.data(), numbers * numbers);
    params.remainders = mirror.array(remainders.data(), numbers * numbers);
    REQUIRE(device::prepare<Divide>() == cudaSuccess);
    REQUIRE(device::launch<Divide>({}, params, nullptr) == cudaSuccess);
    mirror.download();
    bool right = true;
    for (std::size_t i = 0; i < divisors.size(); ++i)
      for (std::size_t j = 0; j < n.size(); ++j)
        right = right && quotients[i * numbers + j] == n[j] / divisors[i] &&
                remainders[i * numbers + j] == n[j] % divisors[i];
    CHECK(right);
  }
}
