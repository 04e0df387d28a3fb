// What has been written to shared memory by ordinary stores and not yet shown to the asynchronous proxy: to
// copies of tiles and products of warpgroups. PTX ISA, "Proxies" and fence.proxy.async.
//
// A fence shows what its warp knows of: its own writes, and those that barriers told it of. Lanes of a warp
// are not told apart.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <emulation/words.hpp>

namespace cottention::emulation {

/// 16-byte units of shared memory.
class UnitSet {
 public:
  static constexpr std::uint32_t unit = 16;

  void resize(std::size_t bytes) {
    words_.assign(bytes / unit / 64 + 1, 0);
    empty_ = true;
  }
  void add(std::uint32_t offset) {
    words_[offset / unit / 64] |= bit(offset);
    empty_ = false;
  }
  bool has(std::uint32_t offset) const { return (words_[offset / unit / 64] & bit(offset)) != 0; }
  /// Sets that were never resized are empty.
  void add(const UnitSet& other);
  void remove(const UnitSet& other);
  /// True at least where nothing was added since it was resized or cleared.
  bool empty() const { return empty_; }
  void clear() {
    words_.assign(words_.size(), 0);
    empty_ = true;
  }

 private:
  static std::uint64_t bit(std::uint32_t offset) { return std::uint64_t{1} << (offset / unit % 64); }
  std::vector<std::uint64_t> words_;
  bool empty_ = true;
};

class HiddenWrites {
 public:
  void reset(std::size_t shared_bytes, std::size_t warps);

  /// By the thread that runs.
  void write(std::uint32_t offset, std::size_t bytes, Where where);
  /// What the copy engine wrote hides nothing.
  void overwrite(std::uint32_t offset, std::size_t bytes);
  /// A fence by a thread of the warp.
  void show(std::size_t warp);

  /// What the warp knows of: barriers pass it on.
  UnitSet& known_to(std::size_t warp) { return known_[warp]; }

  /// Fails if the asynchronous proxy must not read the unit yet.
  void check(std::uint32_t offset, const char* word, Where where) const;

 private:
  struct Write {
    int thread = 0;
    Where where;
  };
  UnitSet hidden_;
  std::vector<UnitSet> known_;  // by warp
  std::vector<Write> latest_;   // by unit
};

}  // namespace cottention::emulation
