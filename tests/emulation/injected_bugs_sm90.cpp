// Faults put into a kernel of sm_90a: each must be found in at least one of the schedules, and reported for
// what it is.
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <cuda_runtime.h>

#include <emulation.hpp>

#include "device/support.hpp"
#include "emulation/outcomes.hpp"
#include "emulation/pipeline.cuh"
#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using cottention::bfloat16;
using device_test::DeviceArray;
using emulation_test::Pipeline;
using Fault = emulation_test::PipelineFault;
namespace device = cottention::device;

constexpr int rows = 64, dim = 64, tiles = 5;
constexpr std::uint64_t seed = 4;

struct Case {
  std::vector<bfloat16> q, k, v;

  Case() {
    support::Random random(seed);
    const auto fill = [&](std::vector<bfloat16>& tensor, int count) {
      for (int i = 0; i < count; ++i) tensor.push_back(bfloat16(static_cast<float>(0.35 * random.normal())));
    };
    fill(q, rows * dim);
    fill(k, tiles * rows * dim);
    fill(v, tiles * rows * dim);
  }

  std::vector<double> expected() const {
    const auto at = [](const std::vector<bfloat16>& x, int row, int column) {
      return cottention::to_double(x[static_cast<std::size_t>(row * dim + column)]);
    };
    std::vector<double> out(q.size());
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < tiles * rows; ++j) {
        double s = 0;
        for (int d = 0; d < dim; ++d) s += 2 * at(q, i, d) * at(k, j, d);
        for (int d = 0; d < dim; ++d) out[static_cast<std::size_t>(i * dim + d)] += s * at(v, j, d);
      }
    return out;
  }
};

template <class T>
device::TensorMap map_of(DeviceArray<T>& tensor, int row_count, int columns, device::Swizzle swizzle) {
  device::TensorMap map{};
  device_test::require_success(
      device::encode_map<T, 2>(
          map,
          {tensor.data(), {dim, row_count}, {dim * static_cast<int>(sizeof(T))}, {columns, rows}, swizzle}),
      "encode_map");
  return map;
}

template <Fault fault>
std::vector<std::string> outcomes() {
  const Case input;
  const std::vector<double> expected = input.expected();
  return emulation_test::in_all_schedules([&]() -> std::string {
    DeviceArray<bfloat16> q(input.q), k(input.k), v(input.v);
    DeviceArray<float> out(expected.size());
    using device::Swizzle;
    device_test::run<Pipeline<fault>>(
        {},
        {map_of(q, rows, dim, Swizzle::bytes_128), map_of(k, tiles * rows, dim, Swizzle::bytes_128),
         map_of(v, tiles * rows, dim, Swizzle::bytes_128), map_of(out, rows, dim / 2, Swizzle::none), tiles});
    // s is rounded to bfloat16, of 8 bits: half a unit in the last place is 2^-9 relative.
    return emulation_test::relative_error(out.values(), expected) <= 0x1p-9 ? "" : "wrong answer";
  });
}

template <Fault fault>
void check_found(const std::vector<std::string>& parts) {
  INFO("seed " << seed);
  emulation_test::check_reported(outcomes<fault>(), parts);
}

// What is reported of a fault that is also a race, which the race detector sees first where there is one.
std::string race_or(const char* other) {
  return cottention::emulation::detects_races() ? "data race: " : other;
}

}  // namespace

TEST_CASE("A kernel of sm_90a without faults is right in every schedule") {
  for (const std::string& text : outcomes<Fault::none>()) CHECK(text == "");
}

TEST_CASE("Tiles that are used or refilled too early are reported") {
  check_found<Fault::no_wait_for_full>({race_or("destination of the asynchronous copy")});
  check_found<Fault::no_wait_for_empty>({"pipeline.cuh"});
  check_found<Fault::wrong_parity>({"pipeline.cuh"});
  check_found<Fault::too_few_bytes>({"pipeline.cuh"});
}

TEST_CASE("Barriers that wait for too much are reported with what is to come") {
  check_found<Fault::too_many_bytes>(
      {"deadlock", "mbarrier.try_wait at emulation/pipeline.cuh", "0 of 1 arrivals and 16 bytes to come"});
  check_found<Fault::too_many_arrivals>({"deadlock", "1 of 5 arrivals and 0 bytes to come"});
  check_found<Fault::arrives_twice>({race_or("all 1 threads of this phase have arrived already")});
}

TEST_CASE("Barriers that are not what they should be are reported") {
  check_found<Fault::no_init_fence>(
      {"after its initialisation at emulation/pipeline.cuh", "fence_mbarrier_init"});
  check_found<Fault::barrier_not_initialised>({"mbarrier.try_wait: no barrier was initialised at offset"});
  check_found<Fault::barrier_overwritten>({race_or("has been overwritten")});
}

TEST_CASE("What was stored and not shown to the asynchronous proxy is reported") {
  check_found<Fault::no_proxy_fence>(
      {"wgmma: offset", "was written by warp", "no fence_proxy_async has followed"});
  check_found<Fault::one_warp_without_proxy_fence>({"wgmma: offset", "was written by warp 2"});
  check_found<Fault::no_fence_before_store>(
      {"cp.async.bulk.tensor: offset", "no fence_proxy_async has followed"});
}

TEST_CASE("Products without fence, wait or companions are reported") {
  check_found<Fault::no_product_fence>({"wgmma: no wgmma_fence since"});
  check_found<Fault::no_product_wait>({"wrong answer"});
  check_found<Fault::shape_changes_in_flight>(
      {"wgmma: sums of m64n64k16 are those of the product of m64n32k16 at emulation/pipeline.cuh",
       "which nothing has waited for"});
  check_found<Fault::one_warp_skips_product>({"another warp of the warpgroup issued a different product"});
}

TEST_CASE("Wrong descriptors give a wrong answer") {
  check_found<Fault::wrong_stride>({"wrong answer"});
  check_found<Fault::wrong_step>({"wrong answer"});
  check_found<Fault::wrong_major>({race_or("wrong answer")});  // of tiles next to the right one, too
}

TEST_CASE("A tile off the repeat of its swizzle is reported") {
  check_found<Fault::tile_misaligned>(
      {"cp.async.bulk.tensor: offset 128 of shared memory is not aligned to 1024"});
}

TEST_CASE("Stores that a thread leaves behind are reported") {
  check_found<Fault::no_store_wait>({"exits without having waited until this store has read its tile"});
  check_found<Fault::store_not_committed>({"exits without having committed this store"});
}
