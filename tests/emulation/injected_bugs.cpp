// Faults put into kernels: each must be found in at least one of the schedules, and reported for what it is.
#include <cstdint>
#include <string>
#include <vector>

#include <cuda_runtime.h>

#include <emulation.hpp>

#include "device/support.hpp"
#include "emulation/outcomes.hpp"
#include "emulation/triangle.cuh"
#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using cottention::bfloat16;
using device_test::DeviceArray;
using emulation_test::Fault;
using emulation_test::Triangle;

constexpr int dim = 64;
constexpr std::uint64_t seed = 3;

struct Case {
  int rows;
  std::vector<bfloat16> q, k, v;

  explicit Case(int row_count) : rows(row_count) {
    support::Random random(seed);
    for (std::vector<bfloat16>* tensor : {&q, &k, &v})
      for (int i = 0; i < rows * dim; ++i)
        tensor->push_back(bfloat16(static_cast<float>(0.35 * random.normal())));
  }

  std::vector<double> expected() const {
    std::vector<double> out(q.size());
    const auto at = [](const std::vector<bfloat16>& x, int row, int column) {
      return cottention::to_double(x[static_cast<std::size_t>(row * dim + column)]);
    };
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j <= i; ++j) {
        double s = 0;
        for (int d = 0; d < dim; ++d) s += at(q, i, d) * at(k, j, d);
        for (int d = 0; d < dim; ++d) out[static_cast<std::size_t>(i * dim + d)] += s * at(v, j, d);
      }
    return out;
  }
};

template <Fault fault>
std::vector<std::string> outcomes(int rows) {
  const Case input(rows);
  const std::vector<double> expected = input.expected();
  return emulation_test::in_all_schedules([&]() -> std::string {
    DeviceArray<bfloat16> q(input.q), k(input.k), v(input.v);
    DeviceArray<float> out(expected.size());
    device_test::run<Triangle<fault>>({(rows + 63) / 64, 1, 1},
                                      {out.data(), q.data(), k.data(), v.data(), rows});
    // s is rounded to bfloat16, of 8 bits: half a unit in the last place is 2^-9 relative.
    return emulation_test::relative_error(out.values(), expected) <= 0x1p-9 ? "" : "wrong answer";
  });
}

template <Fault fault>
void check_found(const std::vector<std::string>& parts, int rows = 200) {
  INFO("seed " << seed);
  emulation_test::check_reported(outcomes<fault>(rows), parts);
}

}  // namespace

TEST_CASE("A kernel without faults is right in every schedule") {
  for (const int rows : {1, 64, 200})
    for (const std::string& text : outcomes<Fault::none>(rows)) CHECK(text == "");
}

TEST_CASE("A missing wait, or one group too few, is reported with the copy that is in flight") {
  check_found<Fault::no_wait>({"triangle.cuh", "ldmatrix", "destination of the asynchronous copy of warp"});
  check_found<Fault::wait_off_by_one>(
      {"triangle.cuh", "ldmatrix", "destination of the asynchronous copy of warp"});
  check_found<Fault::never_waited_for>({"exits without having waited for this copy"}, 64);
}

TEST_CASE("A missing barrier shows in some schedule") {
  // The race detector sees it first where there is one.
  const std::string report = cottention::emulation::detects_races() ? "data race: write by copies of warp"
                                                                    : "destination of the asynchronous copy";
  check_found<Fault::no_barrier_after_wait>({"triangle.cuh", report});
  check_found<Fault::no_barrier_before_refill>({"triangle.cuh", report});
}

TEST_CASE("Wrong swizzles, transpositions and masks give a wrong answer") {
  check_found<Fault::wrong_swizzle>({"wrong answer"});
  check_found<Fault::no_transpose>({"wrong answer"});
  check_found<Fault::wrong_mask>({"wrong answer"});
}

TEST_CASE("Rows past the end that are not zeroed are NaN") {
  check_found<Fault::tail_not_zeroed>({"wrong answer"}, 40);
}

TEST_CASE("Accesses outside an allocation or the block's shared memory are reported with their offset") {
  check_found<Fault::global_overrun>(
      {"triangle.cuh", "cp.async: 16 bytes at offset", "of an allocation of 25600 bytes"});
  check_found<Fault::shared_overrun>({"triangle.cuh", "of shared memory, of which the block has 40960"});
}

TEST_CASE("Instructions that the lanes of a warp do not reach together are reported with both places") {
  check_found<Fault::barrier_in_branch>({"divergent warp: bar.sync here, while lanes", "are in bar.sync at"});
  check_found<Fault::product_in_branch>({"divergent warp: mma.sync here, while lanes", "are in mma.sync at"});
}

TEST_CASE("Threads that leave early are missed") {
  check_found<Fault::exit_before_barrier>(
      {"deadlock", "threads 0-95: bar.sync at", "96 of 128 threads have arrived"});
  check_found<Fault::exit_before_product>(
      {"the lane exits (last seen at emulation/triangle.cuh", "while lanes", "wait here in ldmatrix"});
}
