// The schedule of a call's walk tasks on threads.
//
// A task is one walk: one output of one sequence and key/value head. With many tasks each thread runs whole
// ones. A task that would leave threads idle is split: its sequence is divided into pieces, and a thread
// either *reduces* a piece to its state or *walks* it from the sum of the states of the pieces before.
// Walking yields the piece's state too, so only pieces that a thread skips are read twice.
//
// The pieces follow from the length of the sequence, the size of the state and the chunk alone, and their
// states are always added in order. So the bits of a result depend neither on threads nor on timing nor on
// the rest of the batch.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <mutex>

#include <cottention/recurrence.hpp>

namespace cottention::cpu {

inline constexpr int max_pieces = 64;  // SplitProgress has one bit for each in a word

/// The largest number of pieces of a sequence whose state has `state_elements`. Large states allow fewer,
/// since each piece of a split task has one in the workspace.
constexpr int piece_limit(std::int64_t state_elements) {
  return state_elements <= 128 * 128 ? max_pieces : state_elements <= 256 * 256 ? 32 : 16;
}

/// A sequence of `length` rows in `count` pieces of `rows` each; the last one may be shorter.
struct Pieces {
  std::int64_t length = 0;
  std::int64_t rows = 0;
  int count = 0;

  Pieces() = default;
  Pieces(std::int64_t length_, std::int64_t state_elements, std::int64_t chunk) : length(length_) {
    // Each chunk of a sequence with pieces is added to two states, so short sequences have few pieces or
    // none.
    const int limit = length < 1024 ? 1 : length <= 4096 ? 12 : piece_limit(state_elements);
    const int min_rows = length <= 4096 ? 342 : 1024;  // three pieces of 1,024 rows
    rows =
        recurrence::piece_rows(length, {.wanted = limit, .min_rows = min_rows, .max_pieces = limit}, chunk);
    count = static_cast<int>((length + rows - 1) / rows);
  }

  std::int64_t first(int piece) const { return piece * rows; }
  std::int64_t last(int piece) const { return (std::min)(length, (piece + 1) * rows); }
};

/// What a thread does next: walks or reduces a piece, waits, or ends.
struct Assignment {
  enum class Kind { walk, reduce, wait, none };
  Kind kind = Kind::none;
  int entry = 0;  // of the open task
  int piece = 0;
  bool yields_sum = false;  // the piece's own state is stored too, since no reduce of it is claimed
};

/// Progress of one split task: of `sums` pieces the states are needed, and `walks` pieces must be walked. A
/// causal walk may start once the states of all pieces before it are added, a bidirectional one once all are.
class SplitProgress {
 public:
  void open(std::int64_t task, int sums, int walks, bool causal) {
    *this = {};
    task_ = task;
    sums_ = sums;
    walks_ = walks;
    causal_ = causal;
  }
  void close() { task_ = -1; }
  bool is_open() const { return task_ >= 0; }
  std::int64_t task() const { return task_; }
  bool finished() const { return walked_ == walks_ && ready_ == sums_; }

  bool can_walk(int piece) const {
    return piece < walks_ && !has(walk_claimed_, piece) && ready_ >= (causal_ ? piece : sums_);
  }
  /// The last piece that can be walked, or -1. A thread walks on from there with the state that it has.
  int furthest_walk() const {
    for (int piece = causal_ ? (std::min)(ready_, walks_ - 1) : walks_ - 1; piece >= 0; --piece)
      if (can_walk(piece)) return piece;
    return -1;
  }
  /// The next piece to reduce, or -1: `skip` pieces past the last one whose sum is claimed, otherwise the
  /// first one whose sum is not. The last piece of a causal walk is never reduced, since no walk starts
  /// behind it.
  int next_reduce(int skip) const {
    const int end = causal_ ? (std::min)(sums_, walks_ - 1) : sums_;
    const int ahead = (std::max)(ready_, static_cast<int>(std::bit_width(sum_claimed_)));
    if (ahead + skip < end) return ahead + skip;
    for (int piece = ready_; piece < end; ++piece)
      if (!has(sum_claimed_, piece)) return piece;
    return -1;
  }
  bool causal() const { return causal_; }
  /// Whether a sum is claimed past the last claimed walk.
  bool sums_ahead() const { return std::bit_width(sum_claimed_) > std::bit_width(walk_claimed_); }
  int unclaimed_walks() const { return walks_ - std::popcount(walk_claimed_); }

  /// Claims the walk of a piece. Returns whether the walk also stores the piece's own state.
  bool claim_walk(int piece) {
    walk_claimed_ |= bit(piece);
    if (!causal_ || piece >= sums_ || has(sum_claimed_, piece)) return false;
    sum_claimed_ |= bit(piece);
    return true;
  }
  void claim_reduce(int piece) { sum_claimed_ |= bit(piece); }
  void walked() { ++walked_; }

  /// Notes that the piece's own state is stored. Calls add(s), in order, for each piece s whose predecessors
  /// are all stored, to turn its state into the inclusive prefix sum.
  template <class Add>
  void summed(int piece, Add add) {
    sum_done_ |= bit(piece);
    for (; ready_ < sums_ && has(sum_done_, ready_); ++ready_) add(ready_);
  }

 private:
  static std::uint64_t bit(int piece) { return std::uint64_t{1} << piece; }
  static bool has(std::uint64_t set, int piece) { return (set & bit(piece)) != 0; }

  std::int64_t task_ = -1;
  int sums_ = 0, walks_ = 0, ready_ = 0, walked_ = 0;
  bool causal_ = false;
  std::uint64_t walk_claimed_ = 0, sum_claimed_ = 0, sum_done_ = 0;
};

/// The numbers of pieces of a task that are summed and walked.
struct SplitCounts {
  int sums, walks;
  bool causal;
};

/// A thread's last assignment and its plan.
struct SplitCursor {
  Assignment last{};
  std::int64_t task = -1;
  int burst = 0;  // pieces still to be reduced in a row
};

/// Assigns pieces of the open split tasks, at most `entry_count` at a time, to threads. `Jobs` provides
/// `bool is_split(task)`, `SplitCounts extent(task)`, `void begin(task, entry)`, `void add(entry, piece)` and
/// `void end(task, entry)`. next() and done() may be called by any thread; a mutex orders them.
template <class Jobs>
class SplitQueue {
 public:
  SplitQueue(Jobs& jobs, SplitProgress* open, int entry_count, std::int64_t tasks, int threads)
      : jobs_(jobs), open_(open), entry_count_(entry_count), tasks_(tasks), threads_(threads) {
    for (int i = 0; i < entry_count; ++i) open_[i] = {};
  }

  Assignment next(SplitCursor& cursor) {
    const std::lock_guard lock(mutex_);
    const Assignment assignment = choose(cursor);
    if (assignment.kind == Assignment::Kind::walk || assignment.kind == Assignment::Kind::reduce) {
      cursor.last = assignment;
      cursor.task = open_[assignment.entry].task();
    }
    return assignment;
  }

  void done(const Assignment& assignment) {
    const std::lock_guard lock(mutex_);
    SplitProgress& task = open_[assignment.entry];
    if (assignment.kind == Assignment::Kind::walk) task.walked();
    if (assignment.kind == Assignment::Kind::reduce || assignment.yields_sum)
      task.summed(assignment.piece, [&](int piece) { jobs_.add(assignment.entry, piece); });
    if (task.finished()) {
      jobs_.end(task.task(), assignment.entry);
      task.close();
    }
  }

 private:
  /// The number of pieces that a thread reduces in a row when it jumps ahead of a walking one. With two
  /// threads, a walk of cost 1 and a reduce of cost u (0.36 at 64 dimensions), r pieces take the least time
  /// when one thread reduces r / (2 + u) of them while the other walks towards them; then both walk and end
  /// together. A few less leave room for uneven speed: in simulation that is within 1% of the best from u =
  /// 0.3 to 0.37.
  int burst(int pieces_left) const { return std::clamp(pieces_left * 7 / 9 / threads_, 1, max_pieces); }

  /// The number of pieces that the thread leaves out before those: the ones that the walking threads will
  /// have walked by the time it is done, u of them for each that it reduces.
  int skip(int burst) const { return (std::max)(0, 9 * burst / 25 / (std::max)(1, threads_ - 1) - 1); }

  Assignment assign_walk(int entry, int piece) {
    return {Assignment::Kind::walk, entry, piece, open_[entry].claim_walk(piece)};
  }
  Assignment assign_reduce(int entry, int piece) {
    open_[entry].claim_reduce(piece);
    return {Assignment::Kind::reduce, entry, piece, true};
  }

  Assignment choose(SplitCursor& cursor) {
    const int here = cursor.last.entry;
    if (cursor.task >= 0 && open_[here].task() == cursor.task) {
      if (cursor.last.kind == Assignment::Kind::walk && open_[here].can_walk(cursor.last.piece + 1))
        return assign_walk(here, cursor.last.piece + 1);
      if (cursor.burst > 0) {
        --cursor.burst;
        if (const int piece = open_[here].next_reduce(0); piece >= 0) return assign_reduce(here, piece);
      }
    }
    cursor.burst = 0;
    for (int entry = 0; entry < entry_count_; ++entry)
      if (open_[entry].is_open())
        if (const int piece = open_[entry].furthest_walk(); piece >= 0) return assign_walk(entry, piece);
    if (const int entry = open_next(); entry >= 0)
      if (const int piece = open_[entry].furthest_walk(); piece >= 0) return assign_walk(entry, piece);
    bool waiting = false;
    for (int entry = 0; entry < entry_count_; ++entry) {
      if (!open_[entry].is_open()) continue;
      waiting = true;
      // Where sums are claimed ahead of the walks, a walk will soon reach them, and no burst is due.
      const bool fresh = open_[entry].causal() && !open_[entry].sums_ahead();
      const int pieces = fresh ? burst(open_[entry].unclaimed_walks()) : 1;
      if (const int piece = open_[entry].next_reduce(fresh ? skip(pieces) : 0); piece >= 0) {
        cursor.burst = pieces - 1;
        return assign_reduce(entry, piece);
      }
    }
    return {waiting ? Assignment::Kind::wait : Assignment::Kind::none};
  }

  /// Opens the next split task where an entry is free. Returns its entry, or -1.
  int open_next() {
    int entry = 0;
    while (entry < entry_count_ && open_[entry].is_open()) ++entry;
    if (entry == entry_count_) return -1;
    while (next_task_ < tasks_ && !jobs_.is_split(next_task_)) ++next_task_;
    if (next_task_ == tasks_) return -1;
    const SplitCounts extent = jobs_.extent(next_task_);
    jobs_.begin(next_task_, entry);
    open_[entry].open(next_task_++, extent.sums, extent.walks, extent.causal);
    return entry;
  }

  Jobs& jobs_;
  SplitProgress* open_;
  int entry_count_;
  std::int64_t tasks_;
  int threads_;
  std::int64_t next_task_ = 0;
  std::mutex mutex_;
};

}  // namespace cottention::cpu
