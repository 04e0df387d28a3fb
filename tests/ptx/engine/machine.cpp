#include "machine.hpp"

#include <cxxabi.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "profile.hpp"

namespace cottention::ptx {

std::string readable(const std::string& name) {
  int status = 0;
  char* const text = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
  std::string result = status == 0 ? text : name;
  std::free(text);
  return result;
}

namespace {

std::string describe(const Program& program, int line) {
  return "PTX line " + std::to_string(line) + ": " + program.module->line(line);
}

}  // namespace

Warp::Warp(Block& its_block, const Program& its_program, int its_index, int threads, std::uint8_t* registers)
    : block(its_block), program(its_program), index(its_index) {
  base_[0] = registers;
  issued_ = block.issued.at(static_cast<std::size_t>(index / warps_per_group)).data();
  // Constants are never written.
  base_[1] = const_cast<std::uint8_t*>(reinterpret_cast<const std::uint8_t*>(program.constants.data()));
  const int mine = std::min(threads - index * lanes, lanes);
  alive_ = mine == lanes ? all : (1u << mine) - 1;
  running_ = alive_;
}

void Warp::fail(const Instruction& i, int lane, const std::string& what) const {
  std::ostringstream text;
  text << readable(program.name) << ": block (" << block.index.x << "," << block.index.y << ","
       << block.index.z << ") warp " << index << " lane " << lane << ": " << what << "\n  "
       << describe(program, i.line);
  throw Error(text.str());
}

std::string Warp::place() const {
  std::ostringstream text;
  if (parked_ != 0) {
    for (int lane = 0; lane < lanes; ++lane)
      if ((parked_ >> lane & 1) != 0)
        text << "  warp " << index << " lane " << lane << " at "
             << describe(program, program.code[pc_[static_cast<std::size_t>(lane)]].line) << "\n";
  } else {
    text << "  warp " << index << (state == State::done ? " is done" : " at ");
    if (state != State::done) text << describe(program, program.code[now_ == 0 ? 0 : now_ - 1].line);
    text << "\n";
  }
  return text.str();
}

/// The lanes at the least place go on.
void Warp::choose() {
  for (int lane = 0; lane < lanes; ++lane)
    if ((running_ >> lane & 1) != 0) pc_[static_cast<std::size_t>(lane)] = now_;
  const std::uint32_t able = alive_ & ~parked_;
  now_ = all;
  for (int lane = 0; lane < lanes; ++lane)
    if ((able >> lane & 1) != 0) now_ = std::min(now_, pc_[static_cast<std::size_t>(lane)]);
  running_ = 0;
  next_other_ = all;
  for (int lane = 0; lane < lanes; ++lane) {
    if ((able >> lane & 1) == 0) continue;
    const std::uint32_t pc = pc_[static_cast<std::size_t>(lane)];
    if (pc == now_)
      running_ |= 1u << lane;
    else
      next_other_ = std::min(next_other_, pc);
  }
}

/// Whether all lanes that are wanted have come to the running lanes' instruction; if not, these wait.
bool Warp::meet(const Instruction& i, std::uint32_t wanted) {
  if (running_ == wanted) return true;
  std::uint32_t here = running_;
  for (int lane = 0; lane < lanes; ++lane)
    if ((parked_ >> lane & 1) != 0 && pc_[static_cast<std::size_t>(lane)] == now_) here |= 1u << lane;
  if ((here & wanted) == wanted) {
    if (here != wanted)
      fail(i, std::countr_zero(here & ~wanted), "a lane that does not take part executes this");
    parked_ &= ~here;
    running_ = here;
    return true;
  }
  for (int lane = 0; lane < lanes; ++lane)
    if ((running_ >> lane & 1) != 0) pc_[static_cast<std::size_t>(lane)] = now_;
  parked_ |= running_;
  running_ = 0;
  choose();
  if (running_ == 0)
    fail(i, std::countr_zero(parked_), "deadlock: lanes of the warp never come here\n" + place());
  return false;
}

void Warp::leave(std::uint32_t who) {
  alive_ &= ~who;
  running_ &= ~who;
  ++block.progress;
}

void Warp::branch(const Instruction& i) {
  if (mask == running_) {
    now_ = i.target;
  } else if (mask == 0) {
    ++now_;
  } else {
    for (int lane = 0; lane < lanes; ++lane) {
      const std::uint32_t bit = 1u << lane;
      if ((running_ & bit) != 0)
        pc_[static_cast<std::size_t>(lane)] = (mask & bit) != 0 ? i.target : now_ + 1;
    }
    running_ = 0;
    choose();
  }
}

/// Where others have left, those who wait may be complete now: lets the first of them try again.
void Warp::resume() {
  choose();
  if (running_ != 0) return;
  for (int lane = 0; lane < lanes; ++lane)
    if ((parked_ >> lane & 1) != 0) now_ = std::min(now_, pc_[static_cast<std::size_t>(lane)]);
  for (int lane = 0; lane < lanes; ++lane)
    if ((parked_ >> lane & 1) != 0 && pc_[static_cast<std::size_t>(lane)] == now_) running_ |= 1u << lane;
  parked_ &= ~running_;
}

/// An instruction that the wanted lanes execute at once. False: those that are here have to wait.
bool Warp::together(const Instruction& i, std::uint32_t wanted) {
  if (mask == 0) return true;
  if (mask != running_)
    fail(i, std::countr_zero(running_ & ~mask), "its guard keeps a part of the warp from it");
  if (!meet(i, wanted)) return false;
  mask = running_;
  i.run(*this, i);
  return true;
}

std::uint32_t Warp::members(const Instruction& i) const {
  const std::uint32_t named = at<std::uint32_t>(i.o[i.extra])[std::countr_zero(running_)];
  if ((running_ & ~named) != 0)
    fail(i, std::countr_zero(running_ & ~named), "a lane is not in its mask of members");
  return named;
}

void Warp::run() {
  state = State::ready;
  while (state == State::ready) {
    if (alive_ == 0) {
      state = State::done;
      return;
    }
    if (running_ == 0) resume();
    const Instruction& i = program.code[now_];
    if (!retries) ++issued_[now_];
    mask = running_;
    if (i.guard != no_guard) {
      const std::uint32_t predicate = *at<std::uint32_t>(i.guard);
      mask &= i.guard_negated ? ~predicate : predicate;
    }
    switch (i.kind) {
      case Kind::plain:
        if (mask != 0) i.run(*this, i);
        ++now_;
        break;
      case Kind::branch:
        branch(i);
        break;
      case Kind::leave:
        leave(mask);
        ++now_;
        break;
      case Kind::converged:
        if (together(i, all)) ++now_;
        break;
      case Kind::block_barrier:
        if (together(i, alive_)) ++now_;
        break;
      case Kind::member_lanes:
        if (together(i, members(i))) ++now_;
        break;
    }
    if (now_ >= next_other_) choose();
  }
}

// ---- memory
// -------------------------------------------------------------------------------------------------

std::uint8_t* Warp::memory(const Instruction& i, int lane, Space space, std::uint64_t address,
                           std::size_t bytes) {
  if (space == Space::generic) {
    space = Space::global;
    for (const auto& [window, its] : {std::pair{shared_window, Space::shared},
                                      {local_window, Space::local},
                                      {param_window, Space::param}})
      if (address >= window && address - window < window_bytes) {
        space = its;
        address -= window;
      }
  } else if (space == Space::param && address >= param_window) {
    address -= param_window;
  }
  const auto text = [&](const char* what) {
    std::ostringstream out;
    out << what << " of " << bytes << " bytes at 0x" << std::hex << address;
    return out.str();
  };
  if (address % bytes != 0) fail(i, lane, text("misaligned access"));
  switch (space) {
    case Space::shared:
      if (address + bytes > block.shared.size())
        fail(i, lane,
             text("access outside the block's shared memory") + ", which has " +
                 std::to_string(block.shared.size()));
      return block.shared.data() + address;
    case Space::local: {
      const std::size_t room = program.local_bytes;
      if (address + bytes > room) fail(i, lane, text("access outside local memory"));
      return block.local.data() + static_cast<std::size_t>(index * lanes + lane) * room + address;
    }
    case Space::param:
      if (address + bytes > block.params.size()) fail(i, lane, text("access outside the parameters"));
      return block.params.data() + address;
    default:
      break;
  }
  if (last_ == nullptr || address < last_->begin || address + bytes > last_->end) {
    last_ = global_memory().find(address, bytes);
    if (last_ == nullptr)
      fail(i, lane, text("access outside every allocation") + global_memory().describe(address));
  }
  return last_->bytes + (address - last_->begin);
}

Warp::Reach Warp::reach(Space space) {
  if (space == Space::shared) return {block.shared.data(), 0, block.shared.size()};
  if (space == Space::param) return {block.params.data(), 0, block.params.size()};
  if (space == Space::global && last_ != nullptr)
    return {last_->bytes, last_->begin, last_->end - last_->begin};
  return {nullptr, 0, 0};
}

// ---- blocks
// -------------------------------------------------------------------------------------------------

Block::Block(const Program& its_program, Size its_index, Size its_grid, Size its_shape,
             std::size_t dynamic_shared_bytes, std::vector<std::uint8_t>& its_params, Issued& its_issued)
    : program(its_program),
      index(its_index),
      grid(its_grid),
      shape(its_shape),
      shared(program.shared_bytes + dynamic_shared_bytes, 0xff),
      params(its_params),
      issued(its_issued) {
  const int threads = static_cast<int>(shape.x * shape.y * shape.z), count = (threads + lanes - 1) / lanes;
  local.assign(static_cast<std::size_t>(count * lanes) * program.local_bytes, 0xff);
  const std::size_t bytes = (program.register_bytes + 63) / 64 * 64;
  registers_.reset(static_cast<std::uint8_t*>(
      std::aligned_alloc(64, std::max<std::size_t>(64, bytes * static_cast<std::size_t>(count)))));
  std::memset(registers_.get(), 0xff, bytes * static_cast<std::size_t>(count));
  for (int w = 0; w < count; ++w)
    warps.push_back(std::make_unique<Warp>(*this, program, w, threads,
                                           registers_.get() + static_cast<std::size_t>(w) * bytes));
}

void Block::arrive(Warp& warp, const Instruction& i, int number, std::uint32_t threads, bool waits,
                   std::uint32_t* reduced, std::uint32_t predicates) {
  if (number < 0 || number > 15) warp.fail(i, 0, "there is no barrier " + std::to_string(number));
  if (threads == 0 || threads % lanes != 0)
    warp.fail(i, 0, "a barrier of " + std::to_string(threads) + " threads");
  Barrier& barrier = barriers[static_cast<std::size_t>(number)];
  if (barrier.arrived == 0) barrier.expected = threads;
  if (barrier.expected != threads)
    warp.fail(i, 0, "the barrier's other threads expect " + std::to_string(barrier.expected) + " threads");
  if (barrier.arrived != 0 && barrier.reduced.empty() != (reduced == nullptr))
    warp.fail(i, 0, "the barrier's other threads meet by another instruction");
  if (reduced != nullptr) {
    barrier.any = barrier.any || predicates != 0;
    barrier.reduced.push_back(reduced);
  }
  barrier.arrived += lanes;
  ++progress;
  if (waits) warp.wait_at(number);
  if (barrier.arrived < barrier.expected) return;
  barrier.arrived = 0;
  for (std::uint32_t* const result : barrier.reduced) *result = barrier.any ? all : 0;
  barrier.reduced.clear();
  barrier.any = false;
  for (const auto& w : warps)
    if (w->state == Warp::State::at_barrier && w->barrier() == number) w->state = Warp::State::ready;
}

void Block::deadlock() {
  std::string text = readable(program.name) + ": block (" + std::to_string(index.x) + "," +
                     std::to_string(index.y) + "," + std::to_string(index.z) +
                     "): deadlock: no warp can go on\n";
  for (const auto& w : warps) text += w->place();
  throw Error(text);
}

void Block::run(Order order) {
  if (order == Order::reverse) std::reverse(warps.begin(), warps.end());
  for (;;) {
    bool done = true;
    const std::uint64_t before = progress;
    for (const auto& w : warps) {
      if (w->state == Warp::State::ready || w->state == Warp::State::spinning) w->run();
      done = done && w->state == Warp::State::done;
    }
    if (done) return;
    if (progress == before) deadlock();
  }
}

void run(const Program& program, Launch& launch) {
  static std::uint64_t launches = 0;  // calls come one at a time
  const bool descending = launches / 2 % 2 != 0;
  const std::uint32_t threads = launch.block.x * launch.block.y * launch.block.z,
                      group = lanes * warps_per_group;
  Issued issued((threads + group - 1) / group, std::vector<std::uint64_t>(program.code.size()));
  const std::uint64_t x = launch.grid.x, y = launch.grid.y, blocks = x * y * launch.grid.z;
  for (std::uint64_t i = 0; i < blocks; ++i) {
    const std::uint64_t b = descending ? blocks - 1 - i : i;
    const Size index{static_cast<std::uint32_t>(b % x), static_cast<std::uint32_t>(b / x % y),
                     static_cast<std::uint32_t>(b / (x * y))};
    Block(program, index, launch.grid, launch.block, launch.dynamic_shared_bytes, launch.params, issued)
        .run((launches + i) % 2 == 0 ? Order::forward : Order::reverse);
  }
  ++launches;
  add_to_profile(program, blocks, issued);
}

}  // namespace cottention::ptx
