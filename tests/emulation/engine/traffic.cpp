#include "traffic.hpp"

#include <algorithm>
#include <tuple>

#include "failure.hpp"

namespace cottention::emulation {
namespace {

constexpr std::uint64_t sector_bytes = 32;
constexpr std::uint64_t bank_bytes = 4;
constexpr std::size_t bank_count = 32;
constexpr std::size_t lanes_per_warp = 32;

std::uint64_t sectors(std::span<const Access> lanes) {
  std::array<std::uint64_t, 2 * lanes_per_warp> touched;  // an access has at most 16 bytes: two sectors
  std::size_t n = 0;
  for (const Access& access : lanes) {
    const std::uint64_t last = (access.address + access.bytes - 1) / sector_bytes;
    for (std::uint64_t sector = access.address / sector_bytes; sector <= last; ++sector)
      if (n == 0 || touched[n - 1] != sector) touched[n++] = sector;
  }
  const auto end = touched.begin() + static_cast<std::ptrdiff_t>(n);
  std::sort(touched.begin(), end);
  return static_cast<std::uint64_t>(std::unique(touched.begin(), end) - touched.begin());
}

// Passes that lanes which go together need: the most distinct words in one bank.
std::uint64_t wavefronts(std::span<const Access> lanes) {
  std::array<std::array<std::uint64_t, lanes_per_warp>, bank_count> words;
  std::array<std::uint8_t, bank_count> counts{};
  std::uint8_t most = 0;
  for (const Access& access : lanes) {
    const std::uint64_t last = (access.address + access.bytes - 1) / bank_bytes;
    for (std::uint64_t word = access.address / bank_bytes; word <= last; ++word) {
      const std::size_t bank = word % bank_count;
      auto& in_bank = words[bank];
      const auto end = in_bank.begin() + counts[bank];
      if (std::find(in_bank.begin(), end, word) != end) continue;
      in_bank[counts[bank]++] = word;
      most = std::max(most, counts[bank]);
    }
  }
  return most;
}

}  // namespace

void count(std::span<const Access> lanes, Statistics& statistics, PlaceCounts& places) {
  const Access& first = lanes.front();
  std::uint64_t bytes = 0;
  for (const Access& access : lanes) bytes += access.bytes;
  switch (first.kind) {
    case Access::Kind::load_global:
      statistics.global_bytes_read += bytes;
      statistics.global_sectors_read += sectors(lanes);
      return;
    case Access::Kind::store_global:
      statistics.global_bytes_written += bytes;
      statistics.global_sectors_written += sectors(lanes);
      return;
    case Access::Kind::load_shared:
      statistics.shared_bytes_read += bytes;
      break;
    case Access::Kind::store_shared:
      statistics.shared_bytes_written += bytes;
      break;
  }
  // 128 bytes pass at a time: 8 and 16 bytes a lane go by halves and quarters of the warp.
  const std::size_t together =
      std::min<std::size_t>(lanes_per_warp, 128 / std::max<std::size_t>(first.bytes, 4));
  PlaceCount& place = places[{first.where.file_name(), static_cast<unsigned>(first.where.line())}];
  for (std::size_t from = 0, to = 0; from < lanes.size(); from = to) {
    while (to < lanes.size() && lanes[to].lane / together == lanes[from].lane / together) ++to;
    const std::uint64_t passes = wavefronts(lanes.subspan(from, to - from));
    statistics.shared_wavefronts += passes;
    statistics.shared_conflicts += passes - 1;
    place.wavefronts += passes;
    place.conflicts += passes - 1;
  }
}

// Whether all lanes made the same accesses in the same order.
bool WarpTraffic::alike() const {
  for (std::size_t lane = 1; lane < lane_count; ++lane)
    if (!std::equal(lanes_[0].begin(), lanes_[0].end(), lanes_[lane].begin(), lanes_[lane].end(),
                    [](const Access& a, const Access& b) {
                      return a.kind == b.kind && same_place(a.where, b.where);
                    }))
      return false;
  return true;
}

void WarpTraffic::close_window(Statistics& statistics, PlaceCounts& places) {
  if (alike()) {
    std::array<Access, lane_count> instruction;
    for (std::size_t i = 0; i < lanes_[0].size(); ++i) {
      for (std::size_t lane = 0; lane < lane_count; ++lane) instruction[lane] = lanes_[lane][i];
      count(instruction, statistics, places);
    }
  } else {
    using Key = std::tuple<const char*, unsigned, unsigned, Access::Kind>;
    std::map<std::pair<Key, int>, std::vector<Access>> instructions;
    for (const auto& accesses : lanes_) {
      std::map<Key, int> occurrences;
      for (const Access& access : accesses) {
        const Key key{access.where.file_name(), access.where.line(), access.where.column(), access.kind};
        instructions[{key, occurrences[key]++}].push_back(access);
      }
    }
    for (const auto& [key, instruction] : instructions) count(instruction, statistics, places);
  }
  clear();
}

void WarpTraffic::clear() {
  for (auto& accesses : lanes_) accesses.clear();
}

}  // namespace cottention::emulation
