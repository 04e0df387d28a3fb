#include "copies.hpp"

#include <cstring>

#include "block.hpp"
#include "global_memory.hpp"

namespace cottention::emulation {
namespace {

constexpr std::size_t copy_bytes = 16;

void land(Block& b, Copy& copy) {
  if (copy.landed) return;
  unsigned char* to = b.shared().data() + copy.to_shared;
  std::memset(to, 0, copy_bytes);
  if (copy.bytes > 0) {
    const auto bytes = static_cast<std::size_t>(copy.bytes);
    std::memcpy(to, global_memory().check(copy.from_global, bytes, copy_bytes, "cp.async", copy.where),
                bytes);
  }
  copy.landed = true;
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

void copy_async_16(void* to_shared, const void* from_global, int bytes, Where where) {
  Block& b = block();
  b.enter(where);
  b.may_yield();
  if (bytes < 0 || bytes > static_cast<int>(copy_bytes)) fail(where, "cp.async: %d bytes of 16", bytes);
  if (reinterpret_cast<std::uintptr_t>(from_global) % copy_bytes != 0)
    fail(where, "cp.async: global address %p is not aligned to 16", from_global);
  if (bytes > 0)
    global_memory().check(from_global, static_cast<std::size_t>(bytes), copy_bytes, "cp.async", where);
  Copy copy{b.shared().check(to_shared, copy_bytes, copy_bytes, "cp.async", where), from_global, bytes,
            where};
  b.record({where, copy.to_shared, static_cast<std::uint16_t>(copy_bytes), Access::Kind::store_shared});
  if (bytes > 0)
    b.record({where, reinterpret_cast<std::uintptr_t>(from_global), static_cast<std::uint16_t>(bytes),
              Access::Kind::load_global});
  b.shared().set_in_flight(copy.to_shared, copy_bytes, position.thread, where);
  if (b.copies() == Copies::eager || (b.copies() == Copies::random && b.random().below(2) == 0))
    land(b, copy);
  else
    b.shared().poison(copy.to_shared, copy_bytes);
  b.thread().copies.issue(copy);
}

void commit_copies(Where where) {
  block().enter(where);
  block().thread().copies.commit();
}

void wait_copies(int groups, Where where) {
  Block& b = block();
  b.enter(where);
  b.thread().copies.wait(groups, [&](Copy& copy) {
    land(b, copy);
    b.shared().set_landed(copy.to_shared, copy_bytes);
  });
}

}  // namespace cottention::emulation
