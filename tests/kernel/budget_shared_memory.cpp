// What the kernels of budget.hpp take of shared memory, by the emulator's count, for tests/checks/budget.py:
// a line of JSON for each kernel, with the difference of two lengths.
#include <cstdint>
#include <cstdio>
#include <utility>

#include <emulation.hpp>

#include "kernel/budget.hpp"

namespace {

cottention::emulation::Statistics statistics_of(const budget::Row& row, std::int64_t tokens) {
  row.run(tokens, [] { cottention::emulation::clear_statistics(); });
  budget::require(cottention::emulation::launches().size() == 1, "not one kernel was counted");
  return cottention::emulation::statistics();
}

}  // namespace

int main() {
  using Count = std::uint64_t cottention::emulation::Statistics::*;
  using Statistics = cottention::emulation::Statistics;
  const std::pair<const char*, Count> counts[] = {{"wavefronts", &Statistics::shared_wavefronts},
                                                  {"conflicts", &Statistics::shared_conflicts},
                                                  {"products", &Statistics::products},
                                                  {"warpgroup_products", &Statistics::warpgroup_products}};
  for (const budget::Row& row : budget::rows) {
    const Statistics shorter = statistics_of(row, budget::shorter),
                     longer = statistics_of(row, budget::longer);
    std::printf("{\"name\": \"%s\", \"chunk\": %d, \"warps\": %d, \"bytes\": %d, \"tokens\": %d", row.name,
                row.chunk, row.warps, row.bytes, static_cast<int>(budget::longer - budget::shorter));
    for (const auto& [name, count] : counts)
      std::printf(", \"%s\": %llu", name, static_cast<unsigned long long>(longer.*count - shorter.*count));
    std::printf("}\n");
  }
}
