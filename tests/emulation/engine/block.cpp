#include "block.hpp"

#include <bit>
#include <utility>

namespace cottention::emulation {

Position position;

namespace {

Block* current = nullptr;

// Thrown in the threads of a block that has failed, to clear their stacks.
struct Cancelled {};

std::uint32_t bit_of(int lane) { return std::uint32_t{1} << lane; }

}  // namespace

Block& block() { return *current; }

// ---- a block's life
// ----------------------------------------------------------------------------------------

void Block::run(const Kernel& kernel, Statistics& statistics, PlaceCounts& places) {
  statistics_ = &statistics;
  places_ = &places;
  prepare(kernel);
  current = this;
  launched_.release();
  schedule();
  if (failure_.empty())
    for (Warp& w : warps_) w.traffic.close_window(statistics, places);
  else
    cancel();
  if (failure_.empty() && !tile_loads_.empty())
    failure_ = std::string(PlaceName(tile_loads_.front().where).text) +
               ": the block ends while this load is under way";
  finished_.acquire();
  current = nullptr;
  ++statistics.blocks;
  if (!failure_.empty()) throw Error(std::exchange(failure_, {}));
}

void Block::prepare(const Kernel& kernel) {
  options_ = options();
  const auto index = static_cast<std::uint64_t>(position.block_x) +
                     (static_cast<std::uint64_t>(position.block_y) << 24) +
                     (static_cast<std::uint64_t>(position.block_z) << 44);
  random_ = Random(options_.seed + 0x10001 * index);
  kernel_ = &kernel;
  shared_.allocate(kernel.shared_bytes, options_.fresh);
  for (Barrier& barrier : barriers_) barrier = {};
  life_ = Life::running;
  failure_.clear();

  const auto threads = static_cast<std::size_t>(kernel.threads);
  while (threads_.size() < threads)
    threads_.push_back(std::make_unique<Thread>(static_cast<int>(threads_.size())));
  for (std::size_t i = 0; i < threads; ++i) {
    threads_[i]->fiber.start(&Block::thread_entry);
    threads_[i]->last = Where{};
    threads_[i]->copies.clear();
    threads_[i]->tile_stores.clear();
  }
  warps_.resize(threads / warp_size);
  for (Warp& w : warps_) {
    w.ready = w.live = all_lanes;
    w.gathering.arrived = 0;
    w.traffic.clear();
    w.products.clear();
  }
  hidden_.reset(kernel.shared_bytes, warps_.size());
  mbarriers_.clear();
  tile_loads_.clear();
  warpgroups_.assign(warps_.size() / 4 + 1, {});
  running_ = kernel.threads;
  position.thread = options_.schedule == Schedule::reverse ? kernel.threads - 1 : 0;
}

// The scheduler's fiber gets control when no thread can run.
void Block::schedule() {
  while (running_ > 0 && failure_.empty()) {
    const int next = next_thread();
    if (next < 0 && !tile_loads_.empty()) {
      land_a_tile();
      continue;
    }
    if (next < 0) {
      failure_ = deadlock();
      return;
    }
    position.thread = next;
    ++statistics_->switches;
    scheduler_.switch_to(thread().fiber);
  }
}

// When nobody can run: no later is possible.
void Block::land_a_tile() {
  const std::uint32_t chosen =
      options_.copies == Copies::random ? random_.below(static_cast<std::uint32_t>(tile_loads_.size())) : 0;
  const TileCopy load = tile_loads_[chosen];
  tile_loads_.erase(tile_loads_.begin() + chosen);
  try {
    land(*this, load);
  } catch (const Error& error) {
    failure_ = error.what();
  }
}

void Block::thread_entry() {
  Fiber::landed();
  current->run_thread();
}

void Block::run_thread() {
  races::Identity& identity = thread().identity;
  try {
    if (life_ == Life::running) {
      identity.acquire(launched_);
      if (races::on()) races::become(identity.kernel());
      kernel_->run(kernel_->params, shared_.data());
      const Entry exit(thread().last);
      check_exit();
    }
  } catch (const Cancelled&) {
  } catch (const std::exception& error) {
    failure_ = error.what();
  }
  if (races::on()) races::become(nullptr);
  identity.end_all();  // copies and products of a block that failed may be under way
  identity.release(finished_);
  const std::uint32_t mine = bit_of(lane());
  warp().live &= ~mine;
  warp().ready &= ~mine;
  --running_;
  Fiber& me = thread().fiber;
  if (life_ == Life::running && failure_.empty())
    if (const int next = next_thread(); next >= 0) {
      position.thread = next;
      ++statistics_->switches;
      me.finish(thread().fiber);
    }
  me.finish(scheduler_);
}

void Block::check_exit() {
  const Thread& t = thread();
  finish_stores(*this, thread().tile_stores);
  finish_products(warp().products);
  if (!t.copies.empty())
    fail(t.copies.oldest().where, "the thread exits without having waited for this copy");
  const Gathering& gathering = warp().gathering;
  if (gathering.arrived != 0)
    fail(gathering.where, "the lane exits (last seen at %s) while lanes %08x of its warp wait here in %s",
         t.last.line() == 0 ? "its start" : PlaceName(t.last).text, gathering.arrived, gathering.word);
}

// Unwinds every thread that has begun.
void Block::cancel() {
  life_ = Life::cancelled;
  for (std::size_t w = 0; w < warps_.size(); ++w)
    while (warps_[w].live != 0) {
      position.thread = static_cast<int>(w) * warp_size + std::countr_zero(warps_[w].live);
      scheduler_.switch_to(thread().fiber);
    }
}

// ---- whose turn it is
// --------------------------------------------------------------------------------------

int Block::choose_lane(std::uint32_t lanes) {
  switch (options_.schedule) {
    case Schedule::forward:
      return std::countr_zero(lanes);
    case Schedule::reverse:
      return 31 - std::countl_zero(lanes);
    case Schedule::random:
      break;
  }
  for (std::uint32_t skip = random_.below(static_cast<std::uint32_t>(std::popcount(lanes))); skip > 0; --skip)
    lanes &= lanes - 1;
  return std::countr_zero(lanes);
}

// Depth first: a warp goes on as far as it can. Random schedules now and then turn to another.
int Block::next_thread() {
  const auto count = static_cast<std::uint32_t>(warps_.size());
  const std::size_t own = static_cast<std::size_t>(position.thread / warp_size);
  const bool random = options_.schedule == Schedule::random;
  const bool stays = !random || random_.below(16) != 0;
  if (stays && warps_[own].ready != 0)
    return static_cast<int>(own) * warp_size + choose_lane(warps_[own].ready);
  const bool reverse = options_.schedule == Schedule::reverse;
  const std::uint32_t first = random ? random_.below(count) : reverse ? count - 1 : 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint32_t w = (reverse ? first + count - i : first + i) % count;
    if (const std::uint32_t ready = warps_[w].ready; ready != 0)
      return static_cast<int>(w) * warp_size + choose_lane(ready);
  }
  return -1;
}

// From a thread that may no longer be ready, to one that is.
void Block::leave() {
  Fiber& me = thread().fiber;
  const int self = position.thread;
  const int next = next_thread();
  if (next == self) return;
  if (next >= 0) {
    position.thread = next;
    ++statistics_->switches;
    me.switch_to(thread().fiber);
  } else {
    me.switch_to(scheduler_);
  }
  if (life_ == Life::cancelled) throw Cancelled{};
}

void Block::yield() { leave(); }

void Block::wait(const Wait& what) {
  thread().wait = what;
  warp().ready &= ~bit_of(lane());
  leave();
}

void Block::wake(int thread) {
  warps_[static_cast<std::size_t>(thread / warp_size)].ready |= bit_of(thread % warp_size);
}

// ---- meeting
// -----------------------------------------------------------------------------------------------

bool Block::gather(const char* word, std::uint64_t variant, void* argument, Where where) {
  Warp& w = warp();
  Gathering& g = w.gathering;
  if (w.live != all_lanes) fail(where, "%s: lanes %08x of the warp have exited", word, ~w.live);
  if (g.arrived == 0) {
    g.word = word;
    g.variant = variant;
    g.where = where;
  } else if (g.word != word || g.variant != variant || !same_place(g.where, where)) {
    fail(where, "divergent warp: %s here, while lanes %08x are in %s at %s%s", word, g.arrived, g.word,
         PlaceName(g.where).text, g.word == word && same_place(g.where, where) ? " with other operands" : "");
  }
  g.arguments[static_cast<std::size_t>(lane())] = argument;
  g.arrived |= bit_of(lane());
  if (g.arrived != all_lanes) {
    wait({word, where});
    return false;
  }
  g.arrived = 0;
  return true;
}

void Block::disperse() { warp().ready = warp().live; }

void Block::order_warp() {
  const races::Token token;
  for_lanes(position.thread / warp_size, [&](const Thread& t) { t.identity.release(token); });
  for_lanes(position.thread / warp_size, [&](const Thread& t) { t.identity.acquire(token); });
}

void Block::acquire_for_warp(const races::Token& token) {
  for_lanes(position.thread / warp_size, [&](const Thread& t) { t.identity.acquire(token); });
}

void Block::declare(const Access& access, const void* memory, void* caller) {
  record(access);
  if (!races::on()) return;
  const bool reads = access.kind == Access::Kind::load_global || access.kind == Access::Kind::load_shared;
  races::declare(thread().identity.kernel(), reads ? races::Touch::read : races::Touch::write, memory,
                 access.bytes, access.where, caller);
  Entry::fail_for_report(access.where);
}

void Block::declare_plain(races::Touch touch, const void* memory, std::size_t bytes, Where where,
                          void* caller) {
  if (!races::on()) return;
  races::declare(thread().identity.kernel(), touch, memory, bytes, where, caller);
  Entry::fail_for_report(where);
}

void Entry::fail_for_report(Where where) {
  if (!races::has_report()) return;
  const std::string report = races::taken_report();
  fail(where, "data race: %s; ThreadSanitizer has printed where", report.c_str());
}

void Block::barrier(const char* word, int id, int threads, Arrival arrival, Where where, bool* predicate) {
  if (id < 0 || id >= barrier_count) fail(where, "%s: no barrier %d", word, id);
  if (threads % warp_size != 0 || threads <= 0 || threads > thread_count())
    fail(where, "%s: %d threads; of the block's %d a positive multiple of 32 can meet", word, threads,
         thread_count());
  if (!gather(word, static_cast<std::uint64_t>(id) << 32 | static_cast<std::uint32_t>(threads), predicate,
              where))
    return;

  warp().traffic.close_window(*statistics_, *places_);
  Barrier& barrier = barriers_[static_cast<std::size_t>(id)];
  if (barrier.arrived == 0) {
    barrier.expected = threads;
    barrier.first = where;
    barrier.reduces = predicate != nullptr;
  } else if (barrier.expected != threads) {
    fail(where, "%s: barrier %d is for %d threads here, for %d at %s", word, id, threads, barrier.expected,
         PlaceName(barrier.first).text);
  } else if (barrier.reduces != (predicate != nullptr)) {
    fail(where, "%s: barrier %d is met by another word at %s", word, id, PlaceName(barrier.first).text);
  }
  barrier.arrived += warp_size;
  const auto for_predicates = [this, &barrier](int w, auto each) {
    if (barrier.reduces)
      for (void* lane : warps_[static_cast<std::size_t>(w)].gathering.arguments)
        each(*static_cast<bool*>(lane));
  };
  const int mine = position.thread / warp_size;
  for_lanes(mine, [&](const Thread& t) { t.identity.release(barrier.token); });
  barrier.writes.add(hidden_.known_to(static_cast<std::size_t>(mine)));
  for_predicates(mine, [&barrier](bool its) { barrier.any = barrier.any || its; });
  if (arrival == Arrival::wait) barrier.warps |= bit_of(mine);
  if (barrier.arrived == barrier.expected) {
    for (std::uint32_t waiting = barrier.warps; waiting != 0; waiting &= waiting - 1) {
      const int w = std::countr_zero(waiting);
      for_lanes(w, [&](const Thread& t) { t.identity.acquire(barrier.token); });
      for_predicates(w, [&barrier](bool& its) { its = barrier.any; });
      hidden_.known_to(static_cast<std::size_t>(w)).add(barrier.writes);
      warps_[static_cast<std::size_t>(w)].ready = warps_[static_cast<std::size_t>(w)].live;
    }
    barrier = {};
    ++statistics_->barriers;
    disperse();  // this warp, which may have only arrived
  } else if (arrival == Arrival::pass) {
    disperse();
  } else {
    for_lanes(mine, [&](Thread& t) { t.wait.barrier = id; });
    wait({word, where, id});
  }
}

}  // namespace cottention::emulation
