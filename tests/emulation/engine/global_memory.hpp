// Device memory. Its addresses are no addresses of the host's, so that neither host code nor a kernel reads
// it behind the words' back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

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

  /// What follows is done by blocks of a new launch, which may come in any order: none reads or writes what
  /// another one writes.
  void begin_launch(std::uint32_t grid_x, std::uint32_t grid_y);
  void begin_block(std::uint64_t index) { block_ = static_cast<std::uint32_t>(index); }
  void check_read(const void* device, std::size_t bytes, const char* word, Where where);
  void check_write(const void* device, std::size_t bytes, const char* word, Where where);

  std::size_t allocated_bytes() const;

 private:
  // No user's address on x86-64 or aarch64, nor one whose upper bits the processor ignores.
  static constexpr std::uintptr_t first_address = std::uintptr_t{1} << 54;
  static constexpr std::uintptr_t gap = std::uintptr_t{1}
                                        << 24;  // between allocations: a stride too many stays in it

  struct Allocation {
    std::uintptr_t address = 0;
    std::size_t bytes = 0;
    unsigned char* memory = nullptr;       // null: freed
    std::vector<std::uint32_t> writers{};  // of each byte in `launch`: the block's index + 1
    std::uint64_t launch = 0;
  };
  Allocation* find(std::uintptr_t address);
  void check_writer(Allocation& allocation, std::size_t offset, std::size_t bytes, const char* word,
                    Where where) const;

  std::map<std::uintptr_t, Allocation> allocations_;  // freed ones too
  Allocation* latest_ = nullptr;                      // the one found last
  std::uintptr_t next_ = first_address;
  std::uint64_t launch_ = 0;
  std::uint32_t block_ = 0, grid_x_ = 1, grid_y_ = 1;
};

GlobalMemory& global_memory();

}  // namespace cottention::emulation
