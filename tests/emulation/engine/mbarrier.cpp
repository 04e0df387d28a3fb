#include "mbarrier.hpp"

#include <cstring>
#include <utility>

#include "block.hpp"

namespace cottention::emulation {
namespace {

constexpr std::size_t object_bytes = 8;
constexpr std::int64_t most_bytes = (1 << 20) - 1;  // PTX ISA, "Contents of the mbarrier object": tx-count
constexpr int most_arrivals = (1 << 20) - 1;

// What the object holds here, so that it shows if something else was written there.
std::uint64_t mark(std::uint32_t offset) { return 0xb5b5b5b500000000u | offset; }

}  // namespace

void Mbarriers::initialise(Block& block, void* barrier, int arrivals, Where where) {
  const std::uint32_t offset =
      block.shared().check(barrier, object_bytes, object_bytes, "mbarrier.init", where);
  if (arrivals < 1 || arrivals > most_arrivals) fail(where, "mbarrier.init: %d arrivals", arrivals);
  if (const auto found = barriers_.find(offset); found != barriers_.end())
    fail(where, "mbarrier.init: there is a barrier at offset %u, initialised at %s", offset,
         PlaceName(found->second.initialised).text);
  const std::uint64_t bits = mark(offset);
  std::memcpy(barrier, &bits, sizeof bits);
  Mbarrier& fresh = barriers_[offset];
  fresh.expected = fresh.pending = arrivals;
  fresh.initialiser = position.thread;
  fresh.initialised = where;
}

void Mbarriers::show() {
  for (auto& [offset, barrier] : barriers_)
    if (barrier.initialiser == position.thread) barrier.shown = true;
}

Mbarrier& Mbarriers::find(Block& block, const void* barrier, const char* word, Where where) {
  const std::uint32_t offset = block.shared().check(barrier, object_bytes, object_bytes, word, where);
  const auto found = barriers_.find(offset);
  if (found == barriers_.end()) fail(where, "%s: no barrier was initialised at offset %u", word, offset);
  std::uint64_t bits;
  std::memcpy(&bits, barrier, sizeof bits);
  if (bits != mark(offset)) fail(where, "%s: the barrier at offset %u has been overwritten", word, offset);
  return found->second;
}

void Mbarriers::arrive(Block& block, void* barrier, std::int64_t bytes, const char* word, Where where) {
  Mbarrier& found = find(block, barrier, word, where);
  if (found.pending == 0)
    fail(where, "%s: all %d threads of this phase have arrived already", word, found.expected);
  found.bytes += bytes;
  if (bytes < 0 || found.bytes > most_bytes)
    fail(where, "%s: the phase would wait for %td bytes, of at most %td", word,
         static_cast<std::ptrdiff_t>(found.bytes), static_cast<std::ptrdiff_t>(most_bytes));
  block.thread().identity.release(found.token);
  found.writes.add(block.hidden().known_to(static_cast<std::size_t>(position.thread / warp_size)));
  --found.pending;
  end_phase_if_complete(block, found);
}

void Mbarriers::end_phase_if_complete(Block& block, Mbarrier& barrier) {
  if (barrier.pending != 0 || barrier.bytes != 0) return;
  barrier.pending = barrier.expected;
  barrier.phase ^= 1;
  barrier.ended = std::exchange(barrier.token, races::Token());
  barrier.ended_writes = std::exchange(barrier.writes, UnitSet());
  for (const int thread : std::exchange(barrier.waiters, {})) block.wake(thread);
}

void Mbarriers::wait(Block& block, void* barrier, int parity, Where where) {
  if (parity != 0 && parity != 1) fail(where, "mbarrier.try_wait: parity %d", parity);
  Mbarrier& found = find(block, barrier, "mbarrier.try_wait", where);
  if (found.phase == parity) {
    found.waiters.push_back(position.thread);
    Wait wait{"mbarrier.try_wait", where};
    wait.mbarrier =
        static_cast<int>(block.shared().check_inside(barrier, object_bytes, object_bytes, wait.word, where));
    block.wait(wait);
  }
  block.thread().identity.acquire(found.ended);
  block.hidden().known_to(static_cast<std::size_t>(position.thread / warp_size)).add(found.ended_writes);
}

std::uint32_t Mbarriers::check_target(Block& block, const void* barrier, Where where) {
  const Mbarrier& found = find(block, barrier, "cp.async.bulk.tensor", where);
  if (!found.shown)
    fail(where, "cp.async.bulk.tensor: after its initialisation at %s the barrier needs fence_mbarrier_init",
         PlaceName(found.initialised).text);
  return block.shared().check_inside(barrier, object_bytes, object_bytes, "cp.async.bulk.tensor", where);
}

void Mbarriers::land(Block& block, std::uint32_t offset, std::int64_t bytes, int thread) {
  Mbarrier& barrier = barriers_.at(offset);
  block.thread_at(thread).identity.release(races::Async::copies, barrier.token);
  barrier.bytes -= bytes;  // below zero where the bytes come before they are expected
  end_phase_if_complete(block, barrier);
}

std::string Mbarriers::describe(std::uint32_t offset) const {
  const Mbarrier& barrier = barriers_.at(offset);
  return "barrier at offset " + std::to_string(offset) + ", initialised at " +
         PlaceName(barrier.initialised).text + ": phase of parity " + std::to_string(barrier.phase) + ", " +
         std::to_string(barrier.pending) + " of " + std::to_string(barrier.expected) + " arrivals and " +
         std::to_string(barrier.bytes) + " bytes to come";
}

// ---- words
// -------------------------------------------------------------------------------------------------

namespace {

void require_sm90(const char* word, Where where) {
  if (options().compute_capability < 90) fail(where, "%s: needs sm_90", word);
}

}  // namespace

void mbarrier_init(void* barrier, int arrivals, Where where) {
  const Entry entry(where);
  require_sm90("mbarrier.init", where);
  Block& b = block();
  b.mbarriers().initialise(b, barrier, arrivals, where);
  b.declare_plain(races::Touch::write, barrier, object_bytes, where, __builtin_return_address(0));
}

void fence_mbarrier_init(Where where) {
  const Entry entry(where);
  block().mbarriers().show();
}

void mbarrier_arrive(void* barrier, Where where) {
  const Entry entry(where);
  Block& b = block();
  b.may_yield();
  b.declare_plain(races::Touch::read, barrier, object_bytes, where, __builtin_return_address(0));
  b.mbarriers().arrive(b, barrier, 0, "mbarrier.arrive", where);
}

void mbarrier_arrive_expect_tx(void* barrier, int bytes, Where where) {
  const Entry entry(where);
  Block& b = block();
  b.may_yield();
  b.declare_plain(races::Touch::read, barrier, object_bytes, where, __builtin_return_address(0));
  b.mbarriers().arrive(b, barrier, bytes, "mbarrier.arrive.expect_tx", where);
}

void mbarrier_wait(void* barrier, int parity, Where where) {
  const Entry entry(where);
  Block& b = block();
  b.declare_plain(races::Touch::read, barrier, object_bytes, where, __builtin_return_address(0));
  b.mbarriers().wait(b, barrier, parity, where);
}

}  // namespace cottention::emulation
