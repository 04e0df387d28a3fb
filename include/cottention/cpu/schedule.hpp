// How the walks of a call are shared out among threads.
//
// A unit is one walk: an output, a sequence, a key/value head. With many units each thread takes whole ones.
// A unit that would leave threads idle is split: its sequence falls into pieces, and a thread either
// *reduces* a piece to its own state or *walks* it from the sum of the pieces before. Walking yields the
// piece's state too, so only pieces that a thread has to jump over are read twice.
//
// Pieces depend on the length of the sequence, the size of the state and the chunk alone, and states are
// always summed piece by piece in order. So the bits of a result depend neither on threads nor on timing nor
// on the rest of the batch.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <mutex>

namespace cottention::cpu {

inline constexpr int most_pieces = 64;  // one bit each in a word

/// Most pieces of a sequence whose state has that many elements: fewer where states are large, since each
/// piece of a split unit holds one.
constexpr int piece_limit(std::int64_t state_elements) {
  return state_elements <= 128 * 128 ? most_pieces : state_elements <= 256 * 256 ? 32 : 16;
}

/// A sequence of `length` rows in `count` pieces of `rows`, the last one shorter.
struct Pieces {
  std::int64_t length = 0;
  std::int64_t rows = 0;
  int count = 0;

  Pieces() = default;
  Pieces(std::int64_t length_, std::int64_t state_elements, std::int64_t chunk) : length(length_) {
    // Summing pieces apart costs an addition to the state in each chunk, so short sequences stay whole.
    constexpr std::int64_t whole = 4096, shortest = 1024;
    const std::int64_t limit = piece_limit(state_elements);
    rows = length <= whole ? length : (std::max)(shortest, (length + limit - 1) / limit);
    rows = std::max<std::int64_t>(chunk, (rows + chunk - 1) / chunk * chunk);
    count = static_cast<int>((length + rows - 1) / rows);
  }

  std::int64_t first(int piece) const { return piece * rows; }
  std::int64_t last(int piece) const { return (std::min)(length, (piece + 1) * rows); }
};

/// What a thread does next in a split unit.
struct Task {
  enum class Kind { walk, reduce, wait, none };
  Kind kind = Kind::none;
  int place = 0;  // of the unit among the open ones
  int piece = 0;
  bool yields_sum = false;  // a walk that leaves its piece's state, since nobody else does
};

/// Progress of one split unit. `sums` pieces must be summed and `walks` walked; a walk may start once
/// `needed(piece)` sums lie before it.
class SplitUnit {
 public:
  void open(std::int64_t unit, int sums, int walks, bool causal) {
    *this = {};
    unit_ = unit;
    sums_ = sums;
    walks_ = walks;
    causal_ = causal;
  }
  void close() { unit_ = -1; }
  bool is_open() const { return unit_ >= 0; }
  std::int64_t unit() const { return unit_; }
  bool finished() const { return walked_ == walks_ && ready_ == sums_; }

  bool can_walk(int piece) const {
    return piece < walks_ && !has(walk_claimed_, piece) && ready_ >= (causal_ ? piece : sums_);
  }
  /// The furthest piece that can be walked, or -1: from there on a thread carries its state along.
  int furthest_walk() const {
    for (int piece = causal_ ? (std::min)(ready_, walks_ - 1) : walks_ - 1; piece >= 0; --piece)
      if (can_walk(piece)) return piece;
    return -1;
  }
  /// The next piece to be reduced, or -1: `skip` pieces past those that somebody sums already, or failing
  /// that the nearest that nobody does. The last one of a causal walk is not worth it: nobody starts behind
  /// it.
  int next_reduce(int skip) const {
    const int end = causal_ ? (std::min)(sums_, walks_ - 1) : sums_;
    const int ahead = (std::max)(ready_, static_cast<int>(std::bit_width(sum_claimed_)));
    if (ahead + skip < end) return ahead + skip;
    for (int piece = ready_; piece < end; ++piece)
      if (!has(sum_claimed_, piece)) return piece;
    return -1;
  }
  bool causal() const { return causal_; }
  /// Whether pieces are summed, or about to be, that no walk has come up to.
  bool sums_ahead() const { return std::bit_width(sum_claimed_) > std::bit_width(walk_claimed_); }
  int unclaimed_walks() const { return walks_ - std::popcount(walk_claimed_); }

  /// Claims the walk; tells whether it is to yield the piece's state.
  bool claim_walk(int piece) {
    walk_claimed_ |= bit(piece);
    if (!causal_ || piece >= sums_ || has(sum_claimed_, piece)) return false;
    sum_claimed_ |= bit(piece);
    return true;
  }
  void claim_reduce(int piece) { sum_claimed_ |= bit(piece); }
  void walked() { ++walked_; }

  /// Notes that the piece's own state is there; add(piece) then turns it into the prefix behind the piece, in
  /// order.
  template <class Add>
  void summed(int piece, Add add) {
    sum_done_ |= bit(piece);
    for (; ready_ < sums_ && has(sum_done_, ready_); ++ready_) add(ready_);
  }

 private:
  static std::uint64_t bit(int piece) { return std::uint64_t{1} << piece; }
  static bool has(std::uint64_t set, int piece) { return (set & bit(piece)) != 0; }

  std::int64_t unit_ = -1;
  int sums_ = 0, walks_ = 0, ready_ = 0, walked_ = 0;
  bool causal_ = false;
  std::uint64_t walk_claimed_ = 0, sum_claimed_ = 0, sum_done_ = 0;
};

/// How many pieces of a unit are summed and walked.
struct SplitExtent {
  int sums, walks;
  bool causal;
};

/// What a thread remembers between tasks.
struct Cursor {
  Task last{};
  std::int64_t unit = -1;
  int burst = 0;  // pieces still to be reduced in a row
};

/// The split units in work, `places` of them at most. Jobs tells what a unit is made of:
/// `bool splits(unit)`, `SplitExtent extent(unit)`, `void begin(unit, place)`, `void add(place, piece)` and
/// `void end(unit, place)`.
template <class Jobs>
class SplitQueue {
 public:
  SplitQueue(Jobs& jobs, SplitUnit* open, int places, std::int64_t units, int threads)
      : jobs_(jobs), open_(open), places_(places), units_(units), threads_(threads) {
    for (int i = 0; i < places; ++i) open_[i] = {};
  }

  Task next(Cursor& cursor) {
    const std::lock_guard lock(mutex_);
    const Task task = choose(cursor);
    if (task.kind == Task::Kind::walk || task.kind == Task::Kind::reduce) {
      cursor.last = task;
      cursor.unit = open_[task.place].unit();
    }
    return task;
  }

  void done(const Task& task) {
    const std::lock_guard lock(mutex_);
    SplitUnit& unit = open_[task.place];
    if (task.kind == Task::Kind::walk) unit.walked();
    if (task.kind == Task::Kind::reduce || task.yields_sum)
      unit.summed(task.piece, [&](int piece) { jobs_.add(task.place, piece); });
    if (unit.finished()) {
      jobs_.end(unit.unit(), task.place);
      unit.close();
    }
  }

 private:
  /// Pieces that a thread reduces in a row when it jumps ahead of a walking one. With two threads, a walk of
  /// cost 1 and a reduce of cost u (0.36 at 64 dimensions), r pieces are done soonest when the one jumps over
  /// r / (2 + u) pieces while the other walks towards them; then both walk, and reach the end together.
  /// Jumping over a few less leaves room for what is not foreseen: in simulation that is within 1% of the
  /// best from u = 0.3 to 0.37.
  int burst(int pieces_left) const { return std::clamp(pieces_left * 7 / 9 / threads_, 1, most_pieces); }

  /// Of the pieces before those it leaves out the ones that will have been walked by the time it is done: u
  /// of them for each that it reduces.
  int skip(int burst) const { return (std::max)(0, 9 * burst / 25 / (std::max)(1, threads_ - 1) - 1); }

  Task walk_task(int place, int piece) {
    return {Task::Kind::walk, place, piece, open_[place].claim_walk(piece)};
  }
  Task reduce_task(int place, int piece) {
    open_[place].claim_reduce(piece);
    return {Task::Kind::reduce, place, piece, true};
  }

  Task choose(Cursor& cursor) {
    const int here = cursor.last.place;
    if (cursor.unit >= 0 && open_[here].unit() == cursor.unit) {
      if (cursor.last.kind == Task::Kind::walk && open_[here].can_walk(cursor.last.piece + 1))
        return walk_task(here, cursor.last.piece + 1);
      if (cursor.burst > 0) {
        --cursor.burst;
        if (const int piece = open_[here].next_reduce(0); piece >= 0) return reduce_task(here, piece);
      }
    }
    cursor.burst = 0;
    for (int place = 0; place < places_; ++place)
      if (open_[place].is_open())
        if (const int piece = open_[place].furthest_walk(); piece >= 0) return walk_task(place, piece);
    if (const int place = open_next(); place >= 0)
      if (const int piece = open_[place].furthest_walk(); piece >= 0) return walk_task(place, piece);
    bool waiting = false;
    for (int place = 0; place < places_; ++place) {
      if (!open_[place].is_open()) continue;
      waiting = true;
      // With sums ahead already, the walk behind will soon have come up to them.
      const bool fresh = open_[place].causal() && !open_[place].sums_ahead();
      const int pieces = fresh ? burst(open_[place].unclaimed_walks()) : 1;
      if (const int piece = open_[place].next_reduce(fresh ? skip(pieces) : 0); piece >= 0) {
        cursor.burst = pieces - 1;
        return reduce_task(place, piece);
      }
    }
    return {waiting ? Task::Kind::wait : Task::Kind::none};
  }

  /// Opens the next split unit where there is room; its place, or -1.
  int open_next() {
    int place = 0;
    while (place < places_ && open_[place].is_open()) ++place;
    if (place == places_) return -1;
    while (next_unit_ < units_ && !jobs_.splits(next_unit_)) ++next_unit_;
    if (next_unit_ == units_) return -1;
    const SplitExtent extent = jobs_.extent(next_unit_);
    jobs_.begin(next_unit_, place);
    open_[place].open(next_unit_++, extent.sums, extent.walks, extent.causal);
    return place;
  }

  Jobs& jobs_;
  SplitUnit* open_;
  int places_;
  std::int64_t units_;
  int threads_;
  std::int64_t next_unit_ = 0;
  std::mutex mutex_;
};

}  // namespace cottention::cpu
