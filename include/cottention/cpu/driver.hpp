// Runs the units of a call on the caller's threads, within the caller's workspace.
#pragma once

#include <cstddef>
#include <new>
#include <thread>

#include <cottention/cpu/execution.hpp>
#include <cottention/cpu/roles.hpp>
#include <cottention/cpu/schedule.hpp>

namespace cottention::cpu {

/// What the units of a call amount to. Follows from shapes alone, so that a workspace can be sized before.
struct Work {
  std::int64_t units = 0;
  std::int64_t rows = 0;  // of all units together
  std::int64_t dim_qk = 0, dim_v = 0;
  bool packed = false;             // sequences may differ in length
  std::int64_t log_sum_units = 0;  // units that yield a sum for the gradient of m
};

/// How many threads the work is worth, and where everything lies in the workspace. No size here follows the
/// length of a sequence.
struct WorkspaceLayout {
  int threads = 1;
  int places = 0;                     // for split units
  std::int64_t state_elements = 0;    // of one state, padded
  std::int64_t scratch_elements = 0;  // of one thread: its chunk's operands and three states
  std::int64_t place_states = 0;      // states of a split unit
  std::size_t unit_bytes = 0, scratch_at = 0, states_at = 0, log_sums_at = 0, bytes = 0;
};

/// Fewer rows than this are not worth waking a thread for (about 20 microseconds of work at 64 dimensions).
inline constexpr std::int64_t rows_per_thread = 128;

template <Element T>
WorkspaceLayout workspace_layout(const Work& work, int chunk, int threads) {
  using A = Accumulate<T>;
  WorkspaceLayout w;
  w.threads = static_cast<int>(std::clamp<std::int64_t>(work.rows / rows_per_thread, 1, threads));
  const std::int64_t pitch_qk = padded(work.dim_qk), pitch_v = padded(work.dim_v);
  w.state_elements = pitch_qk * pitch_v;
  w.scratch_elements = ChunkScratch<A>::elements(chunk, pitch_qk, pitch_v) + 3 * w.state_elements;
  // A few split units at a time keep all threads busy; each holds the states between its pieces.
  const bool may_split = w.threads > 1 && (work.packed || work.units % w.threads != 0);
  w.places = may_split ? (w.threads + 7) / 8 : 0;
  w.place_states = piece_limit(w.state_elements) + 1;
  const auto take = [&w](std::size_t bytes) {
    const std::size_t at = w.bytes;
    w.bytes += (bytes + workspace_alignment - 1) / workspace_alignment * workspace_alignment;
    return at;
  };
  const auto elements = [](std::int64_t n) { return static_cast<std::size_t>(n) * sizeof(A); };
  w.unit_bytes = (sizeof(Unit<T>) + sizeof(SplitUnit) + 15) / 16 * 16;
  take(static_cast<std::size_t>(w.places) * w.unit_bytes);
  w.scratch_at = take(elements(w.threads * w.scratch_elements));
  w.states_at = take(elements(w.places * w.place_states * w.state_elements));
  w.log_sums_at = take(static_cast<std::size_t>(work.log_sum_units * most_pieces) * sizeof(double));
  return w;
}

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
    auto* progress =
        reinterpret_cast<SplitUnit*>(memory_ + static_cast<std::size_t>(layout_.places) * sizeof(Unit<T>));
    SplitQueue<Driver> queue(*this, progress, layout_.places, work_.units);
    std::atomic<std::int64_t> next{0};
    auto body = [&](int thread) {
      A* scratch = elements(layout_.scratch_at) + thread * layout_.scratch_elements;
      for (std::int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < work_.units;)
        if (!splits(i)) run_whole(i, scratch);
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
    return source_.rows(i) * threads > work_.rows ||
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
  Pieces pieces(std::int64_t rows) const { return {rows, layout_.state_elements, chunk}; }
  A* elements(std::size_t at) const { return reinterpret_cast<A*>(memory_ + at); }
  double* log_sums() const { return reinterpret_cast<double*>(memory_ + layout_.log_sums_at); }
  Unit<T>* open_unit(int place) const { return reinterpret_cast<Unit<T>*>(memory_) + place; }
  A* state(int place, int i) const {
    return elements(layout_.states_at) + (place * layout_.place_states + i) * layout_.state_elements;
  }

  ChunkScratch<A> chunk_scratch(const Unit<T>& unit, A* scratch) const {
    return ChunkScratch<A>::in(scratch + 3 * layout_.state_elements, chunk, padded(unit.walk.a.rows.dim),
                               padded(unit.walk.c.rows.dim));
  }
  void keep_log_sum(std::int64_t i, int piece, double sum) const {
    if (const std::int64_t at = source_.log_sum_unit(i); at >= 0) log_sums()[at * most_pieces + piece] = sum;
  }

  void run_whole(std::int64_t i, A* scratch) {
    const Unit<T> unit = source_.unit(i);
    A *prefix = scratch, *h = prefix + layout_.state_elements, *sum = h + layout_.state_elements;
    Walker<T, chunk, vector_bytes> walker(unit.walk, chunk_scratch(unit, scratch));
    load_state(unit, prefix);
    const Pieces sums = pieces(unit.walk.bc_rows);
    if constexpr (causal) {
      if (sums.count == 1) keep_log_sum(i, 0, walker.walk(0, sums.length, prefix, nullptr));
      for (int piece = 0; sums.count > 1 && piece < sums.count; ++piece) {
        const bool more = piece + 1 < sums.count || unit.final != nullptr;
        copy_state(h, prefix);
        if (more) clear_state(sum);
        keep_log_sum(i, piece, walker.walk(sums.first(piece), sums.last(piece), h, more ? sum : nullptr));
        if (more) add_state(prefix, sum);
      }
    } else {
      for (int piece = 0; piece < sums.count; ++piece) {
        clear_state(h);
        walker.reduce(sums.first(piece), sums.last(piece), h);
        add_state(prefix, h);
      }
      const Pieces outputs = pieces(unit.walk.a_rows);
      for (int piece = 0; piece < outputs.count; ++piece)
        keep_log_sum(i, piece, walker.apply(outputs.first(piece), outputs.last(piece), prefix));
    }
    if (unit.final != nullptr) store_state(unit, prefix);
  }

  void run_pieces(SplitQueue<Driver>& queue, A* h) {
    Cursor cursor;
    for (;;) {
      const Task task = queue.next(cursor);
      if (task.kind == Task::Kind::none) return;
      if (task.kind == Task::Kind::wait) {
        std::this_thread::yield();
        continue;
      }
      const Unit<T>& unit = *open_unit(task.place);
      Walker<T, chunk, vector_bytes> walker(unit.walk, chunk_scratch(unit, h));
      A* own = state(task.place, task.piece + 1);
      if (task.kind == Task::Kind::reduce) {
        const Pieces p = pieces(unit.walk.bc_rows);
        clear_state(own);
        walker.reduce(p.first(task.piece), p.last(task.piece), own);
      } else if constexpr (causal) {
        const Pieces p = pieces(unit.walk.bc_rows);
        copy_state(h, state(task.place, task.piece));
        if (task.yields_sum) clear_state(own);
        keep_log_sum(
            cursor.unit, task.piece,
            walker.walk(p.first(task.piece), p.last(task.piece), h, task.yields_sum ? own : nullptr));
      } else {
        const Pieces p = pieces(unit.walk.a_rows);
        const int sums = pieces(unit.walk.bc_rows).count;
        keep_log_sum(cursor.unit, task.piece,
                     walker.apply(p.first(task.piece), p.last(task.piece), state(task.place, sums)));
      }
      queue.done(task);
    }
  }

  void clear_state(A* h) const { std::fill_n(h, layout_.state_elements, A{0}); }
  void copy_state(A* to, const A* from) const { std::copy_n(from, layout_.state_elements, to); }
  void add_state(A* to, const A* from) const {
    for (std::int64_t e = 0; e < layout_.state_elements; ++e) to[e] += from[e];
  }

  /// The unit's initial state, zero past its dimensions.
  void load_state(const Unit<T>& unit, A* h) const {
    clear_state(h);
    if (unit.initial == nullptr) return;
    const std::int64_t rows = unit.walk.a.rows.dim, columns = unit.walk.c.rows.dim, pitch = padded(columns);
    const bool as_is = unit.initial_layout == Layout::as_is;
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < columns; ++c)
        h[r * pitch + c] = unit.initial[as_is ? r * columns + c : c * rows + r];
  }
  void store_state(const Unit<T>& unit, const A* h) const {
    const std::int64_t rows = unit.walk.a.rows.dim, columns = unit.walk.c.rows.dim, pitch = padded(columns);
    for (std::int64_t r = 0; r < rows; ++r) std::copy_n(h + r * pitch, columns, unit.final + r * columns);
  }

  const Source& source_;
  const Work work_;
  const WorkspaceLayout& layout_;
  std::byte* memory_;
};

}  // namespace cottention::cpu
