#include "copies.hpp"

#include <cstring>

#include "block.hpp"
#include "global_memory.hpp"

namespace cottention::emulation {
namespace {

constexpr std::size_t copy_bytes = 16;

void land(Block& b, Copy& copy) {
  unsigned char* to = b.shared().data() + copy.to_shared;
  std::memset(to, 0, copy_bytes);
  if (copy.bytes > 0) {
    const auto bytes = static_cast<std::size_t>(copy.bytes);
    std::memcpy(to, global_memory().check(copy.from_global, bytes, copy_bytes, "cp.async", copy.where),
                bytes);
  }
  copy.landed = true;
}

// To the counts and the race detector, for which the copy reads and writes when it is issued.
void declare(Block& b, const Copy& copy, void* caller) {
  void* const fiber = b.thread().identity.begin(races::Async::copies);
  const std::uint32_t to = copy.to_shared;
  b.record({copy.where, to, static_cast<std::uint16_t>(copy_bytes), Access::Kind::store_shared});
  races::declare(fiber, races::Touch::write, b.shared().data() + to, copy_bytes, copy.where, caller);
  if (copy.bytes > 0) {
    const auto bytes = static_cast<std::uint16_t>(copy.bytes);
    const auto from = reinterpret_cast<std::uintptr_t>(copy.from_global);
    b.record({copy.where, from, bytes, Access::Kind::load_global});
    const void* memory = global_memory().check(copy.from_global, bytes, copy_bytes, "cp.async", copy.where);
    global_memory().check_read(copy.from_global, bytes, "cp.async", copy.where);
    races::declare(fiber, races::Touch::read, memory, bytes, copy.where, caller);
  }
  Entry::fail_for_report(copy.where);
}

}  // namespace

void CopyQueue::commit() {
  group_sizes_.push_back(static_cast<int>(copies_.size()) - committed_);
  committed_ = static_cast<int>(copies_.size());
}

void CopyQueue::clear() {
  copies_.clear();
  group_sizes_.clear();
  committed_ = 0;
}

void cp_async_16(void* to_shared, const void* from_global, int bytes, Where where) {
  const Entry entry(where);
  Block& b = block();
  b.may_yield();
  if (bytes < 0 || bytes > static_cast<int>(copy_bytes)) fail(where, "cp.async: %d bytes of 16", bytes);
  if (reinterpret_cast<std::uintptr_t>(from_global) % copy_bytes != 0)
    fail(where, "cp.async: global address %p is not aligned to 16", from_global);
  Copy copy{b.shared().check(to_shared, copy_bytes, copy_bytes, "cp.async", where), from_global, bytes,
            where};
  declare(b, copy, __builtin_return_address(0));
  if (b.now())
    land(b, copy);
  else
    b.shared().poison(copy.to_shared, copy_bytes);
  b.shared().set_in_flight(copy.to_shared, copy_bytes, position.thread, where);
  b.thread().copies.issue(copy);
}

void cp_async_commit(Where where) {
  const Entry entry(where);
  block().thread().copies.commit();
}

void cp_async_wait(int groups, Where where) {
  const Entry entry(where);
  Block& b = block();
  bool any = false;
  b.thread().copies.wait(groups, [&](Copy& copy) {
    b.shared().set_landed(copy.to_shared, copy_bytes);
    if (!copy.landed) land(b, copy);
    b.hidden().write(copy.to_shared, copy_bytes, copy.where);
    any = true;
  });
  if (any) b.thread().identity.end(races::Async::copies);
}

}  // namespace cottention::emulation
