// The schedule of a call's walk tasks on threads.
//
// A task is one walk: one output of one sequence and key/value head. With many tasks each thread runs whole
// ones. A task that would leave threads idle is split: threads take its pieces in order. Of a causal walk a
// thread first sums each chunk of its piece, keeping the sums, then waits for the state before the piece,
// adds the piece's own to it for the next thread, and walks the piece. So no thread waits for another's walk,
// and no product is computed twice. Without a mask all pieces are summed first.
//
// The pieces follow from the length of the sequence, the size of the state and the chunk alone, and their
// states are always added in order. So the bits of a result depend neither on threads nor on timing nor on
// the rest of the batch.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>

namespace cottention::cpu {

/// The chunks of `chunk_rows` rows in a piece: 512 rows where a state is 64 x 64 or smaller. A thread that
/// shares a task keeps a state for each, together 1 MiB of floats at most up to 256 x 256, so that they stay
/// in the second-level cache.
constexpr std::int64_t chunks_per_piece(std::int64_t state_elements, std::int64_t chunk_rows) {
  std::int64_t chunks = (std::max)(std::int64_t{1}, 512 / chunk_rows);
  while (chunks > 1 && chunks * chunks * state_elements > (std::int64_t{1} << 20)) chunks /= 2;
  return chunks;
}

/// A sequence of `length` rows in `count` pieces of `rows` each; the last one may be shorter, and so may the
/// last one of every `interval` rows between two checkpoints.
struct Pieces {
  std::int64_t length = 0;
  std::int64_t rows = 0;
  std::int64_t interval = 0;      // the whole sequence where there are no checkpoints
  std::int64_t per_interval = 1;  // pieces of a whole one
  std::int64_t count = 0;

  Pieces() = default;
  /// `chunk_rows`: of a chunk between two states. `interval_`: 0: no checkpoints.
  Pieces(std::int64_t length_, std::int64_t state_elements, std::int64_t chunk_rows,
         std::int64_t interval_ = 0)
      : length(length_),
        rows(chunks_per_piece(state_elements, chunk_rows) * chunk_rows),
        interval(interval_ > 0 ? interval_ : (std::max)(length, std::int64_t{1})),
        per_interval((interval + rows - 1) / rows),
        count(length / interval * per_interval + (length % interval + rows - 1) / rows) {}

  std::int64_t first(std::int64_t piece) const {
    return piece / per_interval * interval + piece % per_interval * rows;
  }
  std::int64_t last(std::int64_t piece) const {
    const std::int64_t next =
        piece % per_interval + 1 == per_interval ? first(piece + 1) : first(piece) + rows;
    return (std::min)(length, next);
  }
};

/// What a thread does next: walks a piece of a causal task, reduces or applies one of a bidirectional task,
/// waits, or ends.
struct Assignment {
  enum class Kind { walk, reduce, apply, wait, none };
  Kind kind = Kind::none;
  int entry = 0;  // of the open task
  std::int64_t piece = 0;
};

/// The numbers of pieces of a task whose states are added, and whose outputs are computed.
struct SplitCounts {
  std::int64_t sums, walks;
  bool causal;
};

/// Progress of one split task. Pieces are claimed in order. The members but for `added` are the queue's,
/// under its mutex.
class SplitProgress {
 public:
  /// Pieces between the first one whose outputs are not complete and the last one claimed.
  static constexpr std::int64_t max_in_flight = 64;

  void open(std::int64_t task, const SplitCounts& counts) {
    task_ = task;
    counts_ = counts;
    next_sum_ = counts.causal ? counts.sums : 0;
    next_walk_ = walked_ = 0;
    complete_ = 0;
    scale_grad_sum_ = 0;
    added_.store(0, std::memory_order_relaxed);
  }
  void close() { task_ = -1; }
  bool is_open() const { return task_ >= 0; }
  std::int64_t task() const { return task_; }
  double scale_grad_sum() const { return scale_grad_sum_; }

  /// Claims the next piece that a thread can work on; kind `wait` where there is none now.
  Assignment claim(int entry) {
    using Kind = Assignment::Kind;
    if (next_sum_ < counts_.sums) return {Kind::reduce, entry, next_sum_++};
    const bool ready = counts_.causal || added_.load(std::memory_order_acquire) == counts_.sums;
    if (!ready || next_walk_ == counts_.walks || next_walk_ - walked_ == max_in_flight) return {Kind::wait};
    return {counts_.causal ? Kind::walk : Kind::apply, entry, next_walk_++};
  }
  /// Notes that a piece's outputs are complete, with its part of the sum for the gradient of m. The parts are
  /// added in order.
  void walked(std::int64_t piece, double scale_grad_part) {
    parts_[piece % max_in_flight] = scale_grad_part;
    complete_ |= bit(piece);
    for (; (complete_ & bit(walked_)) != 0; ++walked_) {
      scale_grad_sum_ += parts_[walked_ % max_in_flight];
      complete_ &= ~bit(walked_);
    }
  }
  bool finished() const {
    return walked_ == counts_.walks && added_.load(std::memory_order_acquire) == counts_.sums;
  }

  /// Whether the states of the pieces before this one are added.
  bool is_added_up_to(std::int64_t piece) const { return added_.load(std::memory_order_acquire) == piece; }
  /// Notes that the state of one more piece is.
  void added() { added_.fetch_add(1, std::memory_order_release); }

 private:
  static std::uint64_t bit(std::int64_t piece) { return std::uint64_t{1} << (piece % max_in_flight); }

  std::int64_t task_ = -1;
  SplitCounts counts_{};
  std::int64_t next_sum_ = 0, next_walk_ = 0;  // the first pieces that are not claimed
  std::int64_t walked_ = 0;                    // pieces, from the first on, whose outputs are complete
  std::uint64_t complete_ = 0;                 // of the pieces behind those
  double scale_grad_sum_ = 0;
  double parts_[max_in_flight] = {};
  std::atomic<std::int64_t> added_{0};
};

/// Assigns pieces of the open split tasks, at most `entry_count` at a time, to threads. `Jobs` provides
/// `bool is_split(task)`, `SplitCounts extent(task)`, `void begin(task, entry)` and
/// `void end(task, entry, scale_grad_sum)`. Any thread may call next() and done(); a mutex orders them.
template <class Jobs>
class SplitQueue {
 public:
  SplitQueue(Jobs& jobs, SplitProgress* open, int entry_count, std::int64_t tasks)
      : jobs_(jobs), open_(open), entry_count_(entry_count), tasks_(tasks) {
    for (int i = 0; i < entry_count; ++i) std::construct_at(open + i);
  }

  Assignment next() {
    const std::lock_guard lock(mutex_);
    bool waiting = false;
    for (int entry = 0; entry < entry_count_; ++entry) {
      if (!open_[entry].is_open() && !open_next(entry)) continue;
      waiting = true;
      if (const Assignment claimed = open_[entry].claim(entry); claimed.kind != Assignment::Kind::wait)
        return claimed;
    }
    return {waiting ? Assignment::Kind::wait : Assignment::Kind::none};
  }

  /// What next() returned is done. `scale_grad_part`: of the piece.
  void done(const Assignment& assignment, double scale_grad_part) {
    const std::lock_guard lock(mutex_);
    SplitProgress& task = open_[assignment.entry];
    if (assignment.kind != Assignment::Kind::reduce) task.walked(assignment.piece, scale_grad_part);
    if (!task.is_open() || !task.finished()) return;
    jobs_.end(task.task(), assignment.entry, task.scale_grad_sum());
    task.close();
  }

 private:
  /// Opens the next split task, where there is one.
  bool open_next(int entry) {
    while (next_task_ < tasks_ && !jobs_.is_split(next_task_)) ++next_task_;
    if (next_task_ == tasks_) return false;
    jobs_.begin(next_task_, entry);
    open_[entry].open(next_task_, jobs_.extent(next_task_));
    ++next_task_;
    return true;
  }

  Jobs& jobs_;
  SplitProgress* open_;
  int entry_count_;
  std::int64_t tasks_;
  std::int64_t next_task_ = 0;
  std::mutex mutex_;
};

}  // namespace cottention::cpu
