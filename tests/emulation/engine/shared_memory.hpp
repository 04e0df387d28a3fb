// The shared memory of the block that runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <emulation.hpp>
#include <emulation/words.hpp>

namespace cottention::emulation {

class SharedMemory {
 public:
  static constexpr std::size_t alignment = 1024;  // as device/entry.cuh promises
  static constexpr std::size_t unit = 16;         // the least that an asynchronous copy moves

  SharedMemory() = default;
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  /// Memory of its own for the next block: what lies past its end belongs to nobody.
  void allocate(std::size_t bytes, Fresh fresh);

  unsigned char* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

  /// Its offset, if `bytes` bytes there lie inside, are aligned, and no copy is under way to them.
  std::uint32_t check(const void* address, std::size_t bytes, std::size_t aligned_to, const char* word,
                      Where where) const;
  /// As check, but copies are not looked at.
  std::uint32_t check_inside(const void* address, std::size_t bytes, std::size_t aligned_to, const char* word,
                             Where where) const;

  /// Marks whole units as the destination of a copy that `thread` has issued and nobody has waited for.
  void set_in_flight(std::uint32_t offset, std::size_t bytes, int thread, Where where);
  void set_landed(std::uint32_t offset, std::size_t bytes);
  /// Until they land, NaN.
  void poison(std::uint32_t offset, std::size_t bytes);

 private:
  struct Flight {
    int thread = -1;
    Where where;
  };
  unsigned char* data_ = nullptr;
  std::size_t bytes_ = 0;
  Fresh fresh_ = Fresh::nan;
  std::vector<Flight> flights_;  // by unit
};

}  // namespace cottention::emulation
