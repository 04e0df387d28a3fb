// The barriers in a block's shared memory. PTX ISA: mbarrier.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <emulation/words.hpp>

#include "proxy.hpp"
#include "races.hpp"

namespace cottention::emulation {

struct Mbarrier {
  int expected = 0, pending = 0;  // arrivals
  std::int64_t bytes = 0;         // expected and not yet landed
  int phase = 0;                  // parity of the current one
  int initialiser = 0;            // thread
  Where initialised;
  bool shown = false;         // to the copies of tiles
  std::vector<int> waiters;   // threads
  races::Token token, ended;  // of this phase and of the one before
  UnitSet writes, ended_writes;
};

class Block;

class Mbarriers {
 public:
  void clear() { barriers_.clear(); }
  void initialise(Block& block, void* barrier, int arrivals, Where where);
  void show();  ///< those of the running thread
  void arrive(Block& block, void* barrier, std::int64_t bytes, const char* word, Where where);
  void wait(Block& block, void* barrier, int parity, Where where);

  /// For a copy of a tile that is to land on it.
  std::uint32_t check_target(Block& block, const void* barrier, Where where);
  void land(Block& block, std::uint32_t offset, std::int64_t bytes, int thread);

  std::string describe(std::uint32_t offset) const;

 private:
  Mbarrier& find(Block& block, const void* barrier, const char* word, Where where);
  void end_phase_if_complete(Block& block, Mbarrier& barrier);
  std::map<std::uint32_t, Mbarrier> barriers_;  // by offset
};

}  // namespace cottention::emulation
