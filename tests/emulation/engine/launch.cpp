// Launches, and what is known of them afterwards.
#include <algorithm>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "block.hpp"
#include "global_memory.hpp"

namespace cottention::emulation {
namespace {

std::mutex launching;  // one launch at a time, whichever host thread it comes from
std::vector<Launch> history;

// One for all launches: its threads' stacks are used again.
Block& the_block() {
  static Block only;
  return only;
}

std::vector<Place> worst_first(const PlaceCounts& counts) {
  std::map<std::pair<std::string, unsigned>, PlaceCount> by_name;
  for (const auto& [place, count] : counts) {
    PlaceCount& sum = by_name[{short_path(place.first), place.second}];
    sum.wavefronts += count.wavefronts;
    sum.conflicts += count.conflicts;
  }
  std::vector<Place> places;
  for (const auto& [place, count] : by_name)
    if (count.conflicts > 0) places.push_back({place.first, place.second, count.wavefronts, count.conflicts});
  std::stable_sort(places.begin(), places.end(),
                   [](const Place& a, const Place& b) { return a.conflicts > b.conflicts; });
  return places;
}

}  // namespace

Options& options() {
  static Options in_force;
  return in_force;
}

std::string describe(const Options& options) {
  constexpr const char* schedules[] = {"forward", "reverse", "random"};
  constexpr const char* copies[] = {"eager", "late", "random"};
  return std::string(schedules[static_cast<int>(options.schedule)]) + " schedule, " +
         copies[static_cast<int>(options.copies)] + " copies, seed " + std::to_string(options.seed);
}

void launch(const Kernel& kernel, std::uint32_t grid_x, std::uint32_t grid_y, std::uint32_t grid_z) {
  const std::lock_guard<std::mutex> alone(launching);
  const races::Watch watch;
  Launch launched{kernel.name, {}, {}};
  PlaceCounts places;
  const std::uint64_t blocks = std::uint64_t{grid_x} * grid_y * grid_z;
  global_memory().begin_launch(grid_x, grid_y);
  for (std::uint64_t i = 0; i < blocks; ++i) {
    const std::uint64_t index = options().schedule == Schedule::reverse ? blocks - 1 - i : i;
    position.block_x = static_cast<int>(index % grid_x);
    position.block_y = static_cast<int>(index / grid_x % grid_y);
    position.block_z = static_cast<int>(index / grid_x / grid_y);
    global_memory().begin_block(index);
    the_block().run(kernel, launched.statistics, places);
  }
  launched.conflicts = worst_first(places);
  history.push_back(std::move(launched));
}

const std::vector<Launch>& launches() { return history; }

Statistics statistics() {
  Statistics sum;
  for (const Launch& launched : history) sum += launched.statistics;
  return sum;
}

void clear_statistics() { history.clear(); }

Statistics& Statistics::operator+=(const Statistics& other) {
  for (const auto member :
       {&Statistics::global_bytes_read, &Statistics::global_bytes_written, &Statistics::global_sectors_read,
        &Statistics::global_sectors_written, &Statistics::shared_bytes_read,
        &Statistics::shared_bytes_written, &Statistics::shared_wavefronts, &Statistics::shared_conflicts,
        &Statistics::products, &Statistics::warpgroup_products, &Statistics::matrix_loads,
        &Statistics::barriers, &Statistics::blocks, &Statistics::switches})
    this->*member += other.*member;
  return *this;
}

}  // namespace cottention::emulation
