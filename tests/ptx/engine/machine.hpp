// The machine: warps that execute decoded instructions, 32 lanes at once under a mask.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "module.hpp"

namespace cottention::ptx {

inline constexpr int lanes = 32;
inline constexpr std::uint32_t all = 0xffffffffu;

class Warp;
struct Instruction;
using Handler = void (*)(Warp&, const Instruction&);

enum class Kind : std::uint8_t {
  plain,
  branch,
  leave,          ///< ret, exit
  converged,      ///< all 32 lanes at once
  member_lanes,   ///< the lanes that its last operand names
  block_barrier,  ///< the warp may wait; the handler says so by waiting(...)
};

inline constexpr std::uint32_t no_guard = all;

/// Operands are places in the registers of a warp: bytes from its first register or, where bit 0 is set, from
/// the first constant. A place has 32 numbers of 4 or 8 bytes, or the 32 bits of a predicate.
struct Instruction {
  Handler run = nullptr;
  const std::uint32_t* o = nullptr;
  std::int64_t offset = 0;  ///< of an address
  std::uint32_t guard = no_guard;
  std::uint32_t target = 0;  ///< of a branch
  int line = 0;
  Kind kind = Kind::plain;
  bool guard_negated = false;
  bool wide_address = false;  ///< of 64 bits
  Space space = Space::generic;
  std::uint8_t count = 1;   ///< of a vector's elements
  std::uint16_t extra = 0;  ///< as the handler likes
};

struct Program {
  std::string name;
  const Module* module = nullptr;
  std::vector<Instruction> code;
  std::vector<std::uint32_t> operands;   ///< what the instructions point into
  std::vector<std::uint64_t> constants;  ///< 32 lanes of 8 bytes each, or of 4
  std::size_t register_bytes = 0;
  std::size_t local_bytes = 0;
  std::size_t shared_bytes = 0;  ///< static
  std::size_t param_bytes = 0;
  std::vector<std::size_t> param_offsets, param_sizes;
  int max_threads = 1024;
};

struct Size {
  std::uint32_t x = 1, y = 1, z = 1;
};

/// Where generic addresses of a space start.
inline constexpr std::uint64_t shared_window = std::uint64_t{1} << 40, local_window = std::uint64_t{2} << 40,
                               param_window = std::uint64_t{3} << 40, window_bytes = std::uint64_t{1} << 40;

/// Device memory. Its addresses are none of the host's.
class GlobalMemory {
 public:
  struct Allocation {
    std::uint64_t begin = 0, end = 0;
    std::uint8_t* bytes = nullptr;
    bool live = false;
  };
  GlobalMemory();
  std::uint64_t allocate(std::size_t bytes);
  bool release(std::uint64_t address);
  bool is_device(std::uint64_t address) const { return address >= first_ && address < first_ + reserved; }
  /// The allocation that holds all of it; null if there is none.
  const Allocation* find(std::uint64_t address, std::size_t bytes) const;
  /// What lies near an address, for a report.
  std::string describe(std::uint64_t address) const;

 private:
  static constexpr std::uint64_t reserved = std::uint64_t{1} << 42;
  std::uint64_t first_, next_;
  std::map<std::uint64_t, Allocation> allocations_;  ///< by their begin; freed ones stay
};

GlobalMemory& global_memory();

struct AsyncCopy {
  std::uint32_t to;
  std::uint64_t from;
  int bytes;
};

struct Barrier {
  std::uint32_t expected = 0, arrived = 0;
  bool any = false;                     ///< of the predicates that it reduces
  std::vector<std::uint32_t*> reduced;  ///< predicates that wait for the result
};

/// How often the warps of each warpgroup execute each instruction of a program. Of a loop that tries until a
/// phase of an mbarrier has ended, one pass counts, since how many there are is the schedule's doing.
using Issued = std::vector<std::vector<std::uint64_t>>;
inline constexpr int warps_per_group = 4;

class Block;

class Warp {
 public:
  enum class State { ready, at_barrier, spinning, done };

  Warp(Block& block, const Program& program, int index, int threads, std::uint8_t* registers);

  /// Until it has to wait for other warps, or is done.
  void run();

  template <class T>
  T* at(std::uint32_t place) const {
    return reinterpret_cast<T*>(base_[place & 1] + (place & ~1u));
  }
  std::uint32_t mask = 0;  ///< of the lanes that execute the instruction
  Block& block;
  const Program& program;
  const int index;

  /// The host's address of `bytes` bytes for a lane's access.
  std::uint8_t* memory(const Instruction& i, int lane, Space space, std::uint64_t address, std::size_t bytes);
  /// Bytes that many accesses fall into: those of a space, or the allocation that was accessed last.
  struct Reach {
    std::uint8_t* bytes;
    std::uint64_t begin, size;
  };
  Reach reach(Space space);
  std::uint64_t address(const Instruction& i, std::uint32_t place, int lane) const {
    const std::uint64_t base =
        i.wide_address ? at<std::uint64_t>(place)[lane] : at<std::uint32_t>(place)[lane];
    return base + static_cast<std::uint64_t>(i.offset);
  }
  [[noreturn]] void fail(const Instruction& i, int lane, const std::string& what) const;
  std::string place() const;  ///< for a report of what it waits for

  void wait_at(int barrier) {
    state = State::at_barrier;
    barrier_ = barrier;
  }
  int barrier() const { return barrier_; }

  State state = State::ready;
  bool retries = false;                                          ///< after a try that failed
  std::array<std::deque<std::vector<AsyncCopy>>, lanes> groups;  ///< of copies, the open one last
  std::array<std::deque<std::vector<AsyncCopy>>, lanes> bulk_groups;

 private:
  void choose();
  void resume();
  bool meet(const Instruction& i, std::uint32_t wanted);
  bool together(const Instruction& i, std::uint32_t wanted);
  std::uint32_t members(const Instruction& i) const;
  void branch(const Instruction& i);
  void leave(std::uint32_t who);

  std::uint8_t* base_[2];
  std::uint64_t* issued_;
  std::array<std::uint32_t, lanes> pc_{};  ///< of lanes that do not run now
  std::uint32_t running_ = 0, parked_ = 0, alive_ = 0;
  std::uint32_t now_ = 0, next_other_ = all;  ///< the running lanes' place, and the least of the others
  int barrier_ = 0;
  const GlobalMemory::Allocation* last_ = nullptr;
};

/// Which warps go first. What is right in one only is a race.
enum class Order { forward, reverse };

/// One block. Shared memory is born NaN.
class Block {
 public:
  Block(const Program& program, Size index, Size grid, Size shape, std::size_t dynamic_shared_bytes,
        std::vector<std::uint8_t>& params, Issued& issued);
  void run(Order order);

  const Program& program;
  Size index, grid, shape;
  std::vector<std::uint8_t> shared;
  std::vector<std::uint8_t>& params;
  Issued& issued;
  std::vector<std::uint8_t> local;  ///< of all threads
  std::vector<std::unique_ptr<Warp>> warps;
  std::array<Barrier, 16> barriers;
  std::uint64_t progress = 0;  ///< grows with whatever another warp may wait for

  /// reduced: where a barrier that reduces predicates puts the result; `predicates`: the lanes'.
  void arrive(Warp& warp, const Instruction& i, int barrier, std::uint32_t threads, bool waits,
              std::uint32_t* reduced = nullptr, std::uint32_t predicates = 0);

 private:
  [[noreturn]] void deadlock();
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<std::uint8_t, Free> registers_;
};

struct Launch {
  Size grid, block;
  std::size_t dynamic_shared_bytes = 0;
  std::vector<std::uint8_t> params;
};

/// A kernel's name as C++ writes it.
std::string readable(const std::string& name);

/// Runs all blocks, one after the other, their warps in one order and the other in turn; from launch to
/// launch they start with another order, and go up and down. Throws Error.
void run(const Program& program, Launch& launch);

}  // namespace cottention::ptx
