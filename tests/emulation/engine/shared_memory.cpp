#include "shared_memory.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "failure.hpp"
#include "sanitizers.hpp"

namespace cottention::emulation {

SharedMemory::~SharedMemory() { std::free(data_); }

void SharedMemory::allocate(std::size_t bytes, Fresh fresh) {
  if (data_ != nullptr) sanitizers::unpoison(data_, bytes_);
  std::free(data_);
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, std::max<std::size_t>(bytes, 1)) != 0) throw std::bad_alloc();
  data_ = static_cast<unsigned char*>(memory);
  bytes_ = bytes;
  fresh_ = fresh;
  std::memset(data_, fresh == Fresh::nan ? 0xff : 0, bytes);
  flights_.assign(bytes / unit + 1, Flight{});
}

std::uint32_t SharedMemory::check_inside(const void* address, std::size_t bytes, std::size_t aligned_to,
                                         const char* word, Where where) const {
  const auto offset = reinterpret_cast<std::intptr_t>(address) - reinterpret_cast<std::intptr_t>(data_);
  if (offset < 0 || static_cast<std::size_t>(offset) + bytes > bytes_)
    fail(where, "%s: %zu bytes at offset %td of shared memory, of which the block has %zu", word, bytes,
         offset, bytes_);
  if (static_cast<std::size_t>(offset) % aligned_to != 0)
    fail(where, "%s: offset %td of shared memory is not aligned to %zu", word, offset, aligned_to);
  return static_cast<std::uint32_t>(offset);
}

std::uint32_t SharedMemory::check(const void* address, std::size_t bytes, std::size_t aligned_to,
                                  const char* word, Where where) const {
  const std::uint32_t offset = check_inside(address, bytes, aligned_to, word, where);
  if (const Flight& flight = flights_[offset / unit];
      flight.thread >= 0)  // bytes <= unit and aligned: one unit
    fail(where,
         "%s: offset %u of shared memory is the destination of the asynchronous copy of warp %d lane %d at "
         "%s, which "
         "nothing has waited for yet",
         word, offset, flight.thread / 32, flight.thread % 32, PlaceName(flight.where).text);
  return offset;
}

void SharedMemory::set_in_flight(std::uint32_t offset, std::size_t bytes, int thread, Where where) {
  std::fill_n(flights_.begin() + offset / unit, bytes / unit, Flight{thread, where});
  sanitizers::poison(data_ + offset, bytes);  // for code that goes past the words
}

void SharedMemory::set_landed(std::uint32_t offset, std::size_t bytes) {
  std::fill_n(flights_.begin() + offset / unit, bytes / unit, Flight{});
  sanitizers::unpoison(data_ + offset, bytes);
}

void SharedMemory::poison(std::uint32_t offset, std::size_t bytes) {
  if (fresh_ == Fresh::nan) std::memset(data_ + offset, 0xff, bytes);
}

}  // namespace cottention::emulation
