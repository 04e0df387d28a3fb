// The asynchronous copies of one thread. PTX ISA: cp.async.
#pragma once

#include <cstdint>
#include <deque>

#include <emulation/words.hpp>

namespace cottention::emulation {

struct Copy {
  std::uint32_t to_shared = 0;  // offset
  const void* from_global = nullptr;
  int bytes = 0;  // of 16; the rest is zero
  Where where;
  bool landed = false;
};

/// In the order of issue. A group is the copies up to its end.
class CopyQueue {
 public:
  void issue(const Copy& copy) { copies_.push_back(copy); }
  void commit();
  /// Lands what `wait` must have landed, and calls `landed(copy)` for each.
  template <class Landed>
  void wait(int groups, Landed landed) {
    while (static_cast<int>(group_sizes_.size()) > groups) {
      for (int i = 0; i < group_sizes_.front(); ++i) {
        landed(copies_.front());
        copies_.pop_front();
      }
      committed_ -= group_sizes_.front();
      group_sizes_.pop_front();
    }
  }
  bool empty() const { return copies_.empty(); }
  const Copy& oldest() const { return copies_.front(); }
  void clear();

 private:
  std::deque<Copy> copies_;
  std::deque<int> group_sizes_;
  int committed_ = 0;  // copies in groups
};

}  // namespace cottention::emulation
