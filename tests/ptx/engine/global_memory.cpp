#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <sstream>

#include "machine.hpp"

namespace cottention::ptx {

// Addresses are reserved without memory behind them: a host that follows one is told at once.
GlobalMemory::GlobalMemory() {
  void* const place = mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (place == MAP_FAILED) throw Error("no addresses for device memory");
  first_ = (reinterpret_cast<std::uint64_t>(place) + 4095) / 4096 * 4096;
  next_ = first_ + 4096;
}

std::uint64_t GlobalMemory::allocate(std::size_t bytes) {
  constexpr std::uint64_t alignment = 256;  // CUDA C++ Programming Guide, "Device Memory Accesses"
  if (bytes > reserved || next_ + bytes + 4096 > first_ + reserved) return 0;
  auto* const memory = static_cast<std::uint8_t*>(
      std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment));
  if (memory == nullptr) return 0;
  std::memset(memory, 0xff, bytes);  // NaN, until it is written
  const std::uint64_t begin = next_;
  next_ = (begin + bytes + 2 * alignment - 1) / alignment * alignment;
  allocations_[begin] = {begin, begin + bytes, memory, true};
  return begin;
}

bool GlobalMemory::release(std::uint64_t address) {
  const auto found = allocations_.find(address);
  if (found == allocations_.end() || !found->second.live) return false;
  std::free(found->second.bytes);
  found->second.bytes = nullptr;
  found->second.live = false;
  return true;
}

const GlobalMemory::Allocation* GlobalMemory::find(std::uint64_t address, std::size_t bytes) const {
  auto after = allocations_.upper_bound(address);
  if (after == allocations_.begin()) return nullptr;
  const Allocation& its = (--after)->second;
  return its.live && address + bytes <= its.end ? &its : nullptr;
}

std::string GlobalMemory::describe(std::uint64_t address) const {
  auto after = allocations_.upper_bound(address);
  if (after == allocations_.begin()) return "; no allocation lies before it";
  const Allocation& its = (--after)->second;
  std::ostringstream text;
  text << "; the one before it, of " << its.end - its.begin << " bytes, starts " << address - its.begin
       << " bytes before" << (its.live ? "" : " and has been freed");
  return text.str();
}

GlobalMemory& global_memory() {
  static GlobalMemory memory;
  return memory;
}

}  // namespace cottention::ptx
