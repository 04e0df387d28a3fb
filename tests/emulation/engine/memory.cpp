// Loads and stores.
#include <cstring>

#include "block.hpp"
#include "global_memory.hpp"

namespace cottention::emulation {
namespace {

void move(void* to, const void* from, int bytes, Where where) {
  switch (bytes) {  // sizes that the compiler knows become one move
    case 1:
      std::memcpy(to, from, 1);
      return;
    case 2:
      std::memcpy(to, from, 2);
      return;
    case 4:
      std::memcpy(to, from, 4);
      return;
    case 8:
      std::memcpy(to, from, 8);
      return;
    case 16:
      std::memcpy(to, from, 16);
      return;
    default:
      fail(where, "%d bytes are not moved by one instruction", bytes);
  }
}

// Checks and declares an access to global memory, and hands back where the host holds it.
unsigned char* global(const char* word, Access::Kind kind, const void* device, int bytes, Where where,
                      void* caller) {
  Block& b = block();
  b.may_yield();
  unsigned char* memory = global_memory().check(device, static_cast<std::size_t>(bytes),
                                                static_cast<std::size_t>(bytes), word, where);
  if (kind == Access::Kind::load_global)
    global_memory().check_read(device, static_cast<std::size_t>(bytes), word, where);
  else
    global_memory().check_write(device, static_cast<std::size_t>(bytes), word, where);
  b.declare({where, reinterpret_cast<std::uintptr_t>(device), static_cast<std::uint16_t>(bytes), kind},
            memory, caller);
  return memory;
}

void shared(const char* word, Access::Kind kind, const void* address, int bytes, Where where, void* caller) {
  Block& b = block();
  b.may_yield();
  const std::uint32_t offset = b.shared().check(address, static_cast<std::size_t>(bytes),
                                                static_cast<std::size_t>(bytes), word, where);
  b.declare({where, offset, static_cast<std::uint16_t>(bytes), kind}, address, caller);
  if (kind == Access::Kind::store_shared) b.hidden().write(offset, static_cast<std::size_t>(bytes), where);
}

}  // namespace

// Each word asks itself who called it: that is the kernel's code.

void load_global(void* to, const void* from_global, int bytes, Where where) {
  const Entry entry(where);
  const auto kind = Access::Kind::load_global;
  move(to, global("ld.global", kind, from_global, bytes, where, __builtin_return_address(0)), bytes, where);
}

void store_global(void* to_global, const void* from, int bytes, Where where) {
  const Entry entry(where);
  const auto kind = Access::Kind::store_global;
  move(global("st.global", kind, to_global, bytes, where, __builtin_return_address(0)), from, bytes, where);
}

std::int64_t fetch_add_global(std::int64_t* at_global, std::int64_t value, Where where) {
  const Entry entry(where);
  Block& b = block();
  b.may_yield();
  unsigned char* memory = global_memory().check(at_global, sizeof value, sizeof value, "atom.add", where);
  // Counted but not declared to the race detector: atomic accesses do not race with one another.
  b.record({where, reinterpret_cast<std::uintptr_t>(at_global), sizeof value, Access::Kind::load_global});
  std::int64_t before;
  std::memcpy(&before, memory, sizeof before);
  const std::int64_t after = before + value;
  std::memcpy(memory, &after, sizeof after);
  return before;
}

void load_shared(void* to, const void* from_shared, int bytes, Where where) {
  const Entry entry(where);
  shared("ld.shared", Access::Kind::load_shared, from_shared, bytes, where, __builtin_return_address(0));
  move(to, from_shared, bytes, where);
}

void store_shared(void* to_shared, const void* from, int bytes, Where where) {
  const Entry entry(where);
  shared("st.shared", Access::Kind::store_shared, to_shared, bytes, where, __builtin_return_address(0));
  move(to_shared, from, bytes, where);
}

}  // namespace cottention::emulation
