// Runs the units of a call on the caller's threads, within the caller's workspace.
#pragma once

#include <atomic>
#include <new>
#include <thread>

#include <cottention/cpu/execution.hpp>
#include <cottention/cpu/workspace.hpp>

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::cpu {

/// Source tells what the units are: `Work work()`, `Unit<T> unit(i)`, `int64 rows(i)` and
/// `int64 log_sum_unit(i)`, the unit's number among those that yield sums, or -1.
template <AnyProblem P, int chunk, int vector_bytes, class Source>
class Driver {
 public:
  using T = typename P::element;
  using A = Accumulate<T>;
  static constexpr bool causal = P::mask == Mask::causal;

  Driver(const Source& source, const WorkspaceLayout& layout, Workspace workspace)
      : source_(source),
        work_(source.work()),
        layout_(layout),
        memory_(static_cast<std::byte*>(workspace.data)) {}

  void run(const Execution& execution) {
    SplitQueue<Driver> queue(*this, reinterpret_cast<SplitUnit*>(memory_ + layout_.progress_at),
                             layout_.places, work_.units, layout_.threads);
    const std::int64_t groups_each = (work_.heads + layout_.together - 1) / layout_.together;
    const std::int64_t groups = work_.units / work_.heads * groups_each;
    std::atomic<std::int64_t> next{0};
    auto body = [&](int thread) {
      A* scratch = elements(layout_.scratch_at) + thread * layout_.scratch_elements;
      for (std::int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < groups;) {
        const std::int64_t head = i % groups_each * layout_.together;
        run_whole(i / groups_each * work_.heads + head,
                  std::min<std::int64_t>(layout_.together, work_.heads - head), scratch);
      }
      if (layout_.places > 0) run_pieces(queue, scratch);
    };
    parallel(execution, layout_.threads, body);
  }

  /// The unit's sum for the gradient of m, over its pieces in order.
  double log_sum(std::int64_t log_sum_unit, std::int64_t rows) const {
    double sum = 0;
    for (int piece = 0; piece < pieces(rows).count; ++piece)
      sum += log_sums()[log_sum_unit * most_pieces + piece];
    return sum;
  }

  // For SplitQueue.
  bool splits(std::int64_t i) const {
    if (layout_.places == 0 || pieces(source_.rows(i)).count < 2) return false;
    const std::int64_t threads = layout_.threads;
    const std::int64_t left_over = work_.units % threads;
    return source_.rows(i) > work_.rows / threads ||
           (!work_.packed && i >= work_.units - left_over && 3 * left_over <= 2 * threads);
  }
  SplitExtent extent(std::int64_t i) const {
    const Unit<T> unit = source_.unit(i);
    const int sums = pieces(unit.walk.bc_rows).count;
    if constexpr (causal) return {unit.final == nullptr ? sums - 1 : sums, sums, true};
    return {sums, pieces(unit.walk.a_rows).count, false};
  }
  void begin(std::int64_t i, int place) {
    const Unit<T> unit = source_.unit(i);
    new (open_unit(place)) Unit<T>(unit);
    load_state(unit, state(place, 0));
  }
  void add(int place, int piece) { add_state(state(place, piece + 1), state(place, piece)); }
  void end(std::int64_t i, int place) {
    const Unit<T>& unit = *open_unit(place);
    if (unit.final != nullptr) store_state(unit, state(place, extent(i).sums));
  }

 private:
  /// A unit in a thread's hands.
  struct Member {
    std::int64_t index = 0;
    Unit<T> unit;
    Walker<T, chunk, vector_bytes> walker;
    A *prefix = nullptr, *h = nullptr, *sum = nullptr;
    double log_sum = 0;
  };

  Pieces pieces(std::int64_t rows) const { return {rows, layout_.state_elements, chunk}; }
  A* elements(std::size_t at) const { return reinterpret_cast<A*>(memory_ + at); }
  double* log_sums() const { return reinterpret_cast<double*>(memory_ + layout_.log_sums_at); }
  Unit<T>* open_unit(int place) const { return reinterpret_cast<Unit<T>*>(memory_) + place; }
  A* state(int place, int i) const {
    return elements(layout_.states_at) + (place * layout_.place_states + i) * layout_.state_elements;
  }

  Member member(std::int64_t index, const Unit<T>& unit, A* scratch, int number) const {
    Member m;
    m.index = index;
    m.unit = unit;
    A* operands = scratch + 3 * layout_.together * layout_.state_elements;
    m.walker = {unit.walk, ChunkScratch<A>::in(operands, chunk, padded(unit.walk.a.rows.dim),
                                               padded(unit.walk.c.rows.dim))};
    m.prefix = scratch + 3 * number * layout_.state_elements;
    m.h = m.prefix + layout_.state_elements;
    m.sum = m.h + layout_.state_elements;
    return m;
  }

  /// f(member, first row, rows) for each chunk of the piece, member after member.
  template <class F>
  void each_chunk(Member* members, int count, const Pieces& p, int piece, F f) const {
    for (int i = 0; i < count; ++i) {
      members[i].walker.seek(p.first(piece));
      members[i].log_sum = 0;
    }
    for (std::int64_t t = p.first(piece); t < p.last(piece); t += chunk)
      for (int i = 0; i < count; ++i) {
        const bool last = i + 1 == count;
        members[i].walker.expect(members[last ? 0 : i + 1].walker, last ? t + chunk : t);
        f(members[i], t, static_cast<int>(std::min<std::int64_t>(chunk, p.last(piece) - t)));
      }
  }
  /// Only those who write a piece's outputs know its sum; another thread may be reducing the same piece.
  void keep_log_sums(const Member* members, int count, int piece) const {
    for (int i = 0; i < count; ++i)
      if (const std::int64_t at = source_.log_sum_unit(members[i].index); at >= 0)
        log_sums()[at * most_pieces + piece] = members[i].log_sum;
  }
  void walk(Member* members, int count, const Pieces& p, int piece) const {
    each_chunk(members, count, p, piece, [](Member& m, std::int64_t t, int rows) {
      m.log_sum += m.walker.walk_chunk(t, rows, m.h, m.sum);
    });
    keep_log_sums(members, count, piece);
  }
  void reduce(Member* members, int count, const Pieces& p, int piece) const {
    each_chunk(members, count, p, piece,
               [](Member& m, std::int64_t t, int rows) { m.walker.reduce_chunk(t, rows, m.sum); });
  }
  void apply(Member* members, int count, const Pieces& p, int piece) const {
    each_chunk(members, count, p, piece, [](Member& m, std::int64_t t, int rows) {
      m.log_sum += m.walker.apply_chunk(t, rows, m.prefix);
    });
    keep_log_sums(members, count, piece);
  }

  /// Runs units first to first + heads - 1 of one sequence side by side, but for those that are to be split.
  void run_whole(std::int64_t first, std::int64_t heads, A* scratch) {
    Member members[most_together];
    int count = 0;
    for (std::int64_t i = first; i < first + heads; ++i)
      if (!splits(i)) {
        members[count] = member(i, source_.unit(i), scratch, count);
        ++count;
      }
    if (count == 0) return;
    for (int i = 0; i < count; ++i) load_state(members[i].unit, members[i].prefix);
    const Pieces sums = pieces(members[0].unit.walk.bc_rows);
    if constexpr (causal) {
      const bool final = members[0].unit.final != nullptr;
      for (int piece = 0; piece < sums.count; ++piece) {
        const bool more = sums.count > 1 && (piece + 1 < sums.count || final);
        for (int i = 0; i < count; ++i) {
          Member& m = members[i];
          if (sums.count == 1)
            m.h = m.prefix;
          else
            copy_state(m.h, m.prefix);
          if (more)
            clear_state(m.sum);
          else
            m.sum = nullptr;
        }
        walk(members, count, sums, piece);
        for (int i = 0; more && i < count; ++i) add_state(members[i].prefix, members[i].sum);
      }
    } else {
      for (int piece = 0; piece < sums.count; ++piece) {
        for (int i = 0; i < count; ++i) clear_state(members[i].sum);
        reduce(members, count, sums, piece);
        for (int i = 0; i < count; ++i) add_state(members[i].prefix, members[i].sum);
      }
      const Pieces outputs = pieces(members[0].unit.walk.a_rows);
      for (int piece = 0; piece < outputs.count; ++piece) apply(members, count, outputs, piece);
    }
    for (int i = 0; i < count; ++i) store_state(members[i].unit, members[i].prefix);
  }

  /// Takes part in the units that are split until none is left.
  void run_pieces(SplitQueue<Driver>& queue, A* scratch) {
    Cursor cursor;
    for (;;) {
      const Task task = queue.next(cursor);
      if (task.kind == Task::Kind::none) return;
      if (task.kind == Task::Kind::wait) {
        std::this_thread::yield();
        continue;
      }
      Member m = member(cursor.unit, *open_unit(task.place), scratch, 0);
      const Pieces sums = pieces(m.unit.walk.bc_rows);
      m.sum = task.yields_sum ? state(task.place, task.piece + 1) : nullptr;
      if (m.sum != nullptr) clear_state(m.sum);
      if (task.kind == Task::Kind::reduce) {
        reduce(&m, 1, sums, task.piece);
      } else if constexpr (causal) {
        copy_state(m.h, state(task.place, task.piece));
        walk(&m, 1, sums, task.piece);
      } else {
        m.prefix = state(task.place, sums.count);
        apply(&m, 1, pieces(m.unit.walk.a_rows), task.piece);
      }
      queue.done(task);
    }
  }

  void clear_state(A* h) const { std::fill_n(h, layout_.state_elements, A{0}); }
  void copy_state(A* to, const A* from) const { std::copy_n(from, layout_.state_elements, to); }
  void add_state(A* to, const A* from) const {
    for (std::int64_t e = 0; e < layout_.state_elements; ++e) to[e] += from[e];
  }

  const Source& source_;
  const Work work_;
  const WorkspaceLayout& layout_;
  std::byte* memory_;
};

}  // namespace cottention::cpu

#if defined(__clang__)
#pragma float_control(pop)
#endif
