// Device memory. Its addresses are no addresses of the host's, so that neither host code nor a kernel reads
// it behind the words' back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

#include <emulation.hpp>
#include <emulation/words.hpp>

namespace cottention::emulation {

class GlobalMemory {
 public:
  GlobalMemory() = default;
  ~GlobalMemory();
  GlobalMemory(const GlobalMemory&) = delete;
  GlobalMemory& operator=(const GlobalMemory&) = delete;

  /// An address that no other allocation has had or is near to; null if memory is short.
  void* allocate(std::size_t bytes, Fresh fresh);
  enum class Release { released, unknown };
  Release release(void* device);

  /// Whether it is an address that allocate could have given.
  static bool is_device(const void* address) {
    return reinterpret_cast<std::uintptr_t>(address) >= first_address;
  }
  /// Where the host holds `bytes` bytes there; null unless they lie in one live allocation.
  unsigned char* host(const void* device, std::size_t bytes);
  /// As host, but fails with what is wrong.
  unsigned char* check(const void* device, std::size_t bytes, std::size_t aligned_to, const char* word,
                       Where where);

  std::size_t allocated_bytes() const;

 private:
  // No user's address on x86-64 or aarch64, nor one whose upper bits the processor ignores.
  static constexpr std::uintptr_t first_address = std::uintptr_t{1} << 54;
  static constexpr std::uintptr_t gap = std::uintptr_t{1}
                                        << 24;  // between allocations: a stride too many stays in it

  struct Allocation {
    std::uintptr_t address = 0;
    std::size_t bytes = 0;
    unsigned char* memory = nullptr;  // null: freed
  };
  const Allocation* find(std::uintptr_t address);

  std::map<std::uintptr_t, Allocation> allocations_;  // freed ones too
  const Allocation* latest_ = nullptr;                // the one found last
  std::uintptr_t next_ = first_address;
};

GlobalMemory& global_memory();

}  // namespace cottention::emulation
