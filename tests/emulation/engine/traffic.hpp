// Which accesses of a warp's lanes were one instruction, and what that instruction cost.
//
// Lanes run one after the other here, so the instruction is put together afterwards: between two points at
// which all lanes of the warp met, the n-th access of each lane from one place in the source is taken for one
// instruction. That is exact unless some lanes skip an access in a loop and make later ones of its kind.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include <emulation.hpp>
#include <emulation/words.hpp>

namespace cottention::emulation {

struct Access {
  enum class Kind : std::uint8_t { load_global, store_global, load_shared, store_shared };
  Where where;
  std::uint64_t address = 0;  // offset, in shared memory
  std::uint16_t bytes = 0;    // of one lane
  Kind kind{};
  std::uint8_t lane = 0;  // record fills it in
};

struct PlaceCount {
  std::uint64_t wavefronts = 0, conflicts = 0;
};
/// By file and line. Names of files are compared by their addresses, so a line may be there more than once.
using PlaceCounts = std::map<std::pair<const char*, unsigned>, PlaceCount>;

/// Counts one instruction whose lanes, in order, made these accesses, all of one kind.
void count(std::span<const Access> lanes, Statistics& statistics, PlaceCounts& places);

class WarpTraffic {
 public:
  void record(int lane, Access access) {
    access.lane = static_cast<std::uint8_t>(lane);
    lanes_[static_cast<std::size_t>(lane)].push_back(access);
  }
  /// All lanes have met, or the warp is done.
  void close_window(Statistics& statistics, PlaceCounts& places);
  void clear();

 private:
  static constexpr int lane_count = 32;
  bool alike() const;
  std::array<std::vector<Access>, lane_count> lanes_;
};

}  // namespace cottention::emulation
