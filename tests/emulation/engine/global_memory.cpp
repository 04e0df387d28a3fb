#include "global_memory.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "failure.hpp"

namespace cottention::emulation {

GlobalMemory& global_memory() {
  static GlobalMemory memory;
  return memory;
}

GlobalMemory::~GlobalMemory() {
  for (auto& [address, allocation] : allocations_) std::free(allocation.memory);
}

void* GlobalMemory::allocate(std::size_t bytes, Fresh fresh) {
  constexpr std::size_t alignment =
      256;  // CUDA C++ Programming Guide: of any address that cudaMalloc returns
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, bytes) != 0) return nullptr;
  std::memset(memory, fresh == Fresh::nan ? 0xff : 0, bytes);
  allocations_[next_] = {next_, bytes, static_cast<unsigned char*>(memory)};
  void* device = reinterpret_cast<void*>(next_);
  next_ += (bytes + 2 * gap - 1) / gap * gap;
  return device;
}

GlobalMemory::Release GlobalMemory::release(void* device) {
  const auto found = allocations_.find(reinterpret_cast<std::uintptr_t>(device));
  if (found == allocations_.end() || found->second.memory == nullptr) return Release::unknown;
  std::free(found->second.memory);
  found->second.memory = nullptr;
  found->second.writers = {};
  return Release::released;
}

// The allocation at the highest address up to this one.
GlobalMemory::Allocation* GlobalMemory::find(std::uintptr_t address) {
  if (latest_ != nullptr && address - latest_->address < std::max<std::size_t>(latest_->bytes, 1))
    return latest_;
  auto above = allocations_.upper_bound(address);
  if (above == allocations_.begin()) return nullptr;
  return latest_ = &(--above)->second;
}

unsigned char* GlobalMemory::host(const void* device, std::size_t bytes) {
  const auto address = reinterpret_cast<std::uintptr_t>(device);
  const Allocation* allocation = find(address);
  if (allocation == nullptr || allocation->memory == nullptr) return nullptr;
  const std::size_t offset = address - allocation->address;
  return offset <= allocation->bytes && bytes <= allocation->bytes - offset ? allocation->memory + offset
                                                                            : nullptr;
}

unsigned char* GlobalMemory::check(const void* device, std::size_t bytes, std::size_t aligned_to,
                                   const char* word, Where where) {
  const auto address = reinterpret_cast<std::uintptr_t>(device);
  if (address % aligned_to != 0)
    fail(where, "%s: global address %p is not aligned to %zu", word, device, aligned_to);
  if (unsigned char* memory = host(device, bytes)) return memory;
  const Allocation* below = find(address);
  if (below == nullptr || !is_device(device)) fail(where, "%s: %p is no global address", word, device);
  const std::size_t offset = address - below->address;
  const auto above = allocations_.upper_bound(address);
  if (above != allocations_.end() && offset > below->bytes && above->first - address < offset - below->bytes)
    fail(where, "%s: %zu bytes start %zu bytes before an allocation of %zu bytes", word, bytes,
         above->first - address, above->second.bytes);
  fail(where, "%s: %zu bytes at offset %zu of an allocation of %zu bytes%s", word, bytes, offset,
       below->bytes, below->memory == nullptr ? " that has been freed" : "");
}

void GlobalMemory::begin_launch(std::uint32_t grid_x, std::uint32_t grid_y) {
  grid_x_ = grid_x;
  grid_y_ = grid_y;
  ++launch_;
}

void GlobalMemory::check_writer(Allocation& allocation, std::size_t offset, std::size_t bytes,
                                const char* word, Where where) const {
  for (std::size_t i = offset; i < offset + bytes; ++i)
    if (const std::uint32_t writer = allocation.writers[i]; writer != 0 && writer != block_ + 1)
      fail(where,
           "%s: offset %zu of an allocation of %zu bytes was written by block (%u,%u,%u) in the same launch",
           word, i, allocation.bytes, (writer - 1) % grid_x_, (writer - 1) / grid_x_ % grid_y_,
           (writer - 1) / grid_x_ / grid_y_);
}

void GlobalMemory::check_read(const void* device, std::size_t bytes, const char* word, Where where) {
  const auto address = reinterpret_cast<std::uintptr_t>(device);
  Allocation& allocation = *find(address);
  if (allocation.launch == launch_)
    check_writer(allocation, address - allocation.address, bytes, word, where);
}

void GlobalMemory::check_write(const void* device, std::size_t bytes, const char* word, Where where) {
  const auto address = reinterpret_cast<std::uintptr_t>(device);
  Allocation& allocation = *find(address);
  const std::size_t offset = address - allocation.address;
  if (allocation.launch != launch_) allocation.writers.assign(allocation.bytes, 0);
  allocation.launch = launch_;
  check_writer(allocation, offset, bytes, word, where);
  std::fill_n(allocation.writers.begin() + static_cast<std::ptrdiff_t>(offset), bytes, block_ + 1);
}

std::size_t GlobalMemory::allocated_bytes() const {
  std::size_t bytes = 0;
  for (const auto& [address, allocation] : allocations_)
    if (allocation.memory != nullptr) bytes += allocation.bytes;
  return bytes;
}

std::size_t allocated_bytes() { return global_memory().allocated_bytes(); }

}  // namespace cottention::emulation
