// Copies of tiles by the copy engine. PTX ISA: cp.async.bulk.tensor.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <vector>

#include <emulation/words.hpp>

#include "races.hpp"

namespace cottention::emulation {

struct TileCopy {
  TileMap map;
  std::array<std::int64_t, TileMap::most_dimensions> first{};  // coordinates
  std::uint32_t shared = 0;                                    // offset
  std::uint32_t barrier = 0;                                   // offset, of a load
  int thread = 0;                                              // that issued it
  Where where;
};

/// Loads that have not landed, of the whole block.
using TileLoads = std::deque<TileCopy>;

/// The stores of one thread.
struct TileStores {
  struct Store {
    TileCopy copy;
    std::vector<unsigned char> tile;  // once it has been read
    enum class Stage { issued, read, written } stage = Stage::issued;
  };
  struct Group {
    std::deque<Store> stores;
    races::Token issued;
  };
  std::deque<Store> open;
  std::deque<Group> groups;

  void clear() {
    open.clear();
    groups.clear();
  }
};

class Block;

void land(Block& block, const TileCopy& load);
/// When a thread exits: fails if a tile may still be read, and writes what is to be written.
void finish_stores(Block& block, TileStores& stores);

}  // namespace cottention::emulation
