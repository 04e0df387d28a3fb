// The block that runs: its threads, and who of them runs next.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <emulation.hpp>
#include <emulation/words.hpp>

#include "copies.hpp"
#include "failure.hpp"
#include "fiber.hpp"
#include "mbarrier.hpp"
#include "proxy.hpp"
#include "races.hpp"
#include "random.hpp"
#include "shared_memory.hpp"
#include "tiles.hpp"
#include "traffic.hpp"
#include "warpgroup.hpp"

namespace cottention::emulation {

inline constexpr int warp_size = 32;
inline constexpr std::uint32_t all_lanes = 0xffffffffu;
inline constexpr int barrier_count = 16;  // PTX ISA: barriers 0 to 15

/// What a thread waits for, for the report of a deadlock.
struct Wait {
  const char* word = "";
  Where where;
  int barrier = -1;   // of a barrier among warps
  int mbarrier = -1;  // offset
};

struct Thread {
  explicit Thread(int index) : identity(index) {}

  Fiber fiber;
  races::Identity identity;
  Wait wait;
  Where last;  // the last word it came to
  CopyQueue copies;
  TileStores tile_stores;
};

/// An instruction that all lanes of a warp execute together, while they gather for it.
struct Gathering {
  const char* word = "";
  std::uint64_t variant = 0;  // operands that must be the same in all lanes
  Where where;
  std::uint32_t arrived = 0;
  std::array<void*, warp_size> arguments{};
};

struct Warp {
  std::uint32_t ready = 0;  // lanes that can run
  std::uint32_t live = 0;   // lanes that have not exited; live and not ready: waiting
  Gathering gathering;
  WarpTraffic traffic;
  WarpProducts products;
};

struct Barrier {
  int arrived = 0, expected = 0;      // threads
  std::uint32_t warps = 0;            // that wait
  bool reduces = false, any = false;  // of predicates
  Where first;
  races::Token token;
  UnitSet writes;  // that its warps know of
};

class Block {
 public:
  /// Runs one block to its end.
  void run(const Kernel& kernel, Statistics& statistics, PlaceCounts& places);

  SharedMemory& shared() { return shared_; }
  Random& random() { return random_; }
  Statistics& statistics() { return *statistics_; }
  PlaceCounts& places() { return *places_; }
  HiddenWrites& hidden() { return hidden_; }
  Mbarriers& mbarriers() { return mbarriers_; }
  TileLoads& tile_loads() { return tile_loads_; }
  Warpgroup& warpgroup(std::size_t index) { return warpgroups_[index]; }
  /// Whether something asynchronous that is issued now takes effect now.
  bool now() {
    return options_.copies == Copies::eager || (options_.copies == Copies::random && random_.below(2) == 0);
  }
  Thread& thread_at(int index) { return *threads_[static_cast<std::size_t>(index)]; }
  Thread& thread() { return *threads_[static_cast<std::size_t>(position.thread)]; }
  Warp& warp() { return warps_[static_cast<std::size_t>(position.thread / warp_size)]; }
  static int lane() { return position.thread % warp_size; }
  int thread_count() const { return static_cast<int>(warps_.size()) * warp_size; }

  /// Where another thread may run although this one could: in random schedules, now and then.
  void may_yield() {
    if (options_.schedule == Schedule::random && random_.below(32) == 0) yield();
  }
  /// An access of the running thread's, for the counts and the race detector.
  void declare(const Access& access, const void* memory, void* caller);
  /// The same, not for the counts.
  void declare_plain(races::Touch touch, const void* memory, std::size_t bytes, Where where, void* caller);
  void record(const Access& access) { warp().traffic.record(lane(), access); }

  /// Returns false in all lanes but the last, once they are woken; true in the last, where all arguments are
  /// there and the others still sleep.
  bool gather(const char* word, std::uint64_t variant, void* argument, Where where);
  /// Lets the others go on.
  void disperse();
  /// `execute` sees the arguments of all lanes, once.
  template <class Argument, class Execute>
  void together(const char* word, std::uint64_t variant, Argument& argument, Where where, Execute execute) {
    if (!gather(word, variant, &argument, where)) return;
    std::array<Argument*, warp_size> all;
    for (std::size_t i = 0; i < warp_size; ++i)
      all[i] = static_cast<Argument*>(warp().gathering.arguments[i]);
    warp().traffic.close_window(*statistics_, *places_);
    execute(all);
    disperse();
  }

  /// What any lane of the warp has done comes before what any lane of it does from here on. Called by the
  /// last.
  void order_warp();
  /// What the token stands for comes before what any lane of the warp does from here on.
  void acquire_for_warp(const races::Token& token);

  enum class Arrival { wait, pass };
  /// predicate: the thread's, of a barrier that reduces them; becomes the result.
  void barrier(const char* word, int id, int threads, Arrival arrival, Where where,
               bool* predicate = nullptr);

  /// Sleeps until woken.
  void wait(const Wait& what);
  void wake(int thread);

 private:
  template <class Each>
  void for_lanes(int warp_index, Each each) {
    for (int i = 0; i < warp_size; ++i) each(*threads_[static_cast<std::size_t>(warp_index * warp_size + i)]);
  }
  void prepare(const Kernel& kernel);
  void schedule();
  void land_a_tile();
  int next_thread();
  int choose_lane(std::uint32_t lanes);
  void leave();
  void yield();
  static void thread_entry();
  void run_thread();
  void check_exit();
  void cancel();
  std::string deadlock() const;
  std::string describe_wait(const Wait& wait) const;

  Options options_;
  Random random_{1};
  const Kernel* kernel_ = nullptr;
  Statistics* statistics_ = nullptr;
  PlaceCounts* places_ = nullptr;
  SharedMemory shared_;
  HiddenWrites hidden_;
  Mbarriers mbarriers_;
  TileLoads tile_loads_;
  std::vector<Warpgroup> warpgroups_;
  Fiber scheduler_;
  std::vector<std::unique_ptr<Thread>> threads_;
  std::vector<Warp> warps_;
  std::array<Barrier, barrier_count> barriers_{};
  int running_ = 0;                   // threads that have not exited
  races::Token launched_, finished_;  // orders the block's threads after the host, and the host after them
  std::string failure_;
  enum class Life { running, cancelled } life_ = Life::running;
};

/// The block that runs now.
Block& block();

/// Around every word: from the kernel's code to the engine's and back.
class Entry {
 public:
  explicit Entry(Where where) {
    if (races::on()) {
      races::become(nullptr);
      fail_for_report(where);
    }
    block().thread().last = where;
  }
  ~Entry() {
    if (races::on()) races::become(block().thread().identity.kernel());
  }
  Entry(const Entry&) = delete;
  Entry& operator=(const Entry&) = delete;

  /// Fails if the race detector has found something.
  static void fail_for_report(Where where);
};

}  // namespace cottention::emulation
