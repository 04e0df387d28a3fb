// Runs the walk tasks of a call on the caller's threads, within the caller's workspace.
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

/// `Tasks` describes the tasks of a call: `Work work()`, `WalkTask<T> task(i)`, `int64 rows(i)`, and
/// `int64 scale_grad_index(i)`, the task's index among those that sum for the gradient of m, or -1.
template <AnyProblem P, int chunk, int vector_bytes, class Tasks>
class Driver {
 public:
  using T = typename P::element;
  using A = Accumulate<T>;
  static constexpr bool causal = P::mask == Mask::causal;

  Driver(const Tasks& tasks, const CallWorkspace<T>& workspace)
      : tasks_(tasks), work_(tasks.work()), workspace_(workspace) {}

  void run(const Execution& execution) {
    SplitQueue<Driver> queue(*this, workspace_.progress, workspace_.entry_count, work_.tasks,
                             workspace_.threads);
    const std::int64_t blocks_per_sequence =
        (work_.heads + workspace_.heads_interleaved - 1) / workspace_.heads_interleaved;
    const std::int64_t head_blocks = work_.tasks / work_.heads * blocks_per_sequence;
    std::atomic<std::int64_t> next{0};
    auto body = [&](int thread) {
      std::byte* scratch = workspace_.scratch + thread * workspace_.scratch_bytes;
      for (std::int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < head_blocks;) {
        const std::int64_t head = i % blocks_per_sequence * workspace_.heads_interleaved;
        run_whole(i / blocks_per_sequence * work_.heads + head,
                  std::min<std::int64_t>(workspace_.heads_interleaved, work_.heads - head), scratch);
      }
      if (workspace_.entry_count > 0) run_split_tasks(queue, scratch);
    };
    parallel(execution, workspace_.threads, body);
  }

  /// The task's sum for the gradient of m: the sums of its pieces, added in order.
  double scale_grad_sum(std::int64_t scale_grad_index, std::int64_t rows) const {
    double sum = 0;
    for (int piece = 0; piece < pieces(rows).count; ++piece)
      sum += workspace_.scale_grad_sums[scale_grad_index * max_pieces + piece];
    return sum;
  }

  // What SplitQueue calls.
  bool is_split(std::int64_t i) const {
    if (workspace_.entry_count == 0 || pieces(tasks_.rows(i)).count < 2) return false;
    const std::int64_t threads = workspace_.threads;
    const std::int64_t left_over = work_.tasks % threads;
    return tasks_.rows(i) > work_.rows / threads ||
           (!work_.packed && i >= work_.tasks - left_over && 3 * left_over <= 2 * threads);
  }
  SplitCounts extent(std::int64_t i) const {
    const WalkTask<T> task = tasks_.task(i);
    const int sums = pieces(task.walk.bc_rows).count;
    if constexpr (causal) return {task.final == nullptr ? sums - 1 : sums, sums, true};
    return {sums, pieces(task.walk.a_rows).count, false};
  }
  void begin(std::int64_t i, int entry) {
    const WalkTask<T> task = tasks_.task(i);
    new (open_task(entry)) WalkTask<T>(task);
    load_state(task, state(entry, 0));
  }
  void add(int entry, int piece) { add_state(state(entry, piece + 1), state(entry, piece)); }
  void end(std::int64_t i, int entry) {
    const WalkTask<T>& task = *open_task(entry);
    if (task.final != nullptr) store_state(task, state(entry, extent(i).sums));
  }

 private:
  /// A task that a thread is running. The three states are in the thread's scratch, or, for split tasks, in
  /// the entry.
  struct ActiveWalk {
    std::int64_t index = 0;
    WalkTask<T> task;
    Walker<T, chunk, vector_bytes> walker;
    A *prefix = nullptr, *h = nullptr, *sum = nullptr;
    double scale_grad_sum = 0;
  };

  Pieces pieces(std::int64_t rows) const { return {rows, workspace_.state_elements, chunk}; }
  WalkTask<T>* open_task(int entry) const { return workspace_.open_tasks + entry; }
  A* state(int entry, int i) const {
    return workspace_.states + (entry * workspace_.states_per_entry + i) * workspace_.state_elements;
  }

  ActiveWalk activate(std::int64_t index, const WalkTask<T>& task, std::byte* scratch, int number) const {
    ActiveWalk m;
    m.index = index;
    m.task = task;
    Carver carver(scratch);
    const auto parts =
        ThreadScratch<A>::take(carver, workspace_.heads_interleaved, chunk, row_pitch(task.walk.a.rows.dim),
                               row_pitch(task.walk.c.rows.dim));
    m.walker = {task.walk, parts.operands};
    m.prefix = parts.states + 3 * number * workspace_.state_elements;
    m.h = m.prefix + workspace_.state_elements;
    m.sum = m.h + workspace_.state_elements;
    return m;
  }

  /// f(active walk, first row, rows) for each chunk of the piece, one walk after the other.
  template <class F>
  void each_chunk(ActiveWalk* active, int count, const Pieces& p, int piece, F f) const {
    for (int i = 0; i < count; ++i) {
      active[i].walker.seek(p.first(piece));
      active[i].scale_grad_sum = 0;
    }
    for (std::int64_t t = p.first(piece); t < p.last(piece); t += chunk)
      for (int i = 0; i < count; ++i) {
        const bool last = i + 1 == count;
        active[i].walker.set_next(active[last ? 0 : i + 1].walker, last ? t + chunk : t);
        f(active[i], t, static_cast<int>(std::min<std::int64_t>(chunk, p.last(piece) - t)));
      }
  }
  /// Stores the piece's sums. The thread that writes a piece's outputs calls this; another thread may be
  /// reducing the same piece.
  void store_scale_grad_sums(const ActiveWalk* active, int count, int piece) const {
    for (int i = 0; i < count; ++i)
      if (const std::int64_t at = tasks_.scale_grad_index(active[i].index); at >= 0)
        workspace_.scale_grad_sums[at * max_pieces + piece] = active[i].scale_grad_sum;
  }
  void walk(ActiveWalk* active, int count, const Pieces& p, int piece) const {
    each_chunk(active, count, p, piece, [](ActiveWalk& m, std::int64_t t, int rows) {
      m.scale_grad_sum += m.walker.walk_chunk(t, rows, m.h, m.sum);
    });
    store_scale_grad_sums(active, count, piece);
  }
  void reduce(ActiveWalk* active, int count, const Pieces& p, int piece) const {
    each_chunk(active, count, p, piece,
               [](ActiveWalk& m, std::int64_t t, int rows) { m.walker.reduce_chunk(t, rows, m.sum); });
  }
  void apply(ActiveWalk* active, int count, const Pieces& p, int piece) const {
    each_chunk(active, count, p, piece, [](ActiveWalk& m, std::int64_t t, int rows) {
      m.scale_grad_sum += m.walker.apply_chunk(t, rows, m.prefix);
    });
    store_scale_grad_sums(active, count, piece);
  }

  /// Runs tasks first to first + heads - 1 of one sequence, chunks interleaved, except those that are split.
  void run_whole(std::int64_t first, std::int64_t heads, std::byte* scratch) {
    ActiveWalk active[max_heads_interleaved];
    int count = 0;
    for (std::int64_t i = first; i < first + heads; ++i)
      if (!is_split(i)) {
        active[count] = activate(i, tasks_.task(i), scratch, count);
        ++count;
      }
    if (count == 0) return;
    for (int i = 0; i < count; ++i) load_state(active[i].task, active[i].prefix);
    const Pieces sums = pieces(active[0].task.walk.bc_rows);
    if constexpr (causal) {
      const bool final = active[0].task.final != nullptr;
      for (int piece = 0; piece < sums.count; ++piece) {
        const bool more = sums.count > 1 && (piece + 1 < sums.count || final);
        for (int i = 0; i < count; ++i) {
          ActiveWalk& m = active[i];
          if (sums.count == 1)
            m.h = m.prefix;
          else
            copy_state(m.h, m.prefix);
          if (more)
            clear_state(m.sum);
          else
            m.sum = nullptr;
        }
        walk(active, count, sums, piece);
        for (int i = 0; more && i < count; ++i) add_state(active[i].prefix, active[i].sum);
      }
    } else {
      for (int piece = 0; piece < sums.count; ++piece) {
        for (int i = 0; i < count; ++i) clear_state(active[i].sum);
        reduce(active, count, sums, piece);
        for (int i = 0; i < count; ++i) add_state(active[i].prefix, active[i].sum);
      }
      const Pieces outputs = pieces(active[0].task.walk.a_rows);
      for (int piece = 0; piece < outputs.count; ++piece) apply(active, count, outputs, piece);
    }
    for (int i = 0; i < count; ++i) store_state(active[i].task, active[i].prefix);
  }

  /// Works on split tasks until none is left.
  void run_split_tasks(SplitQueue<Driver>& queue, std::byte* scratch) {
    SplitCursor cursor;
    for (;;) {
      const Assignment assignment = queue.next(cursor);
      if (assignment.kind == Assignment::Kind::none) return;
      if (assignment.kind == Assignment::Kind::wait) {
        std::this_thread::yield();
        continue;
      }
      ActiveWalk m = activate(cursor.task, *open_task(assignment.entry), scratch, 0);
      const Pieces sums = pieces(m.task.walk.bc_rows);
      m.sum = assignment.yields_sum ? state(assignment.entry, assignment.piece + 1) : nullptr;
      if (m.sum != nullptr) clear_state(m.sum);
      if (assignment.kind == Assignment::Kind::reduce) {
        reduce(&m, 1, sums, assignment.piece);
      } else if constexpr (causal) {
        copy_state(m.h, state(assignment.entry, assignment.piece));
        walk(&m, 1, sums, assignment.piece);
      } else {
        m.prefix = state(assignment.entry, sums.count);
        apply(&m, 1, pieces(m.task.walk.a_rows), assignment.piece);
      }
      queue.done(assignment);
    }
  }

  void clear_state(A* h) const { std::fill_n(h, workspace_.state_elements, A{0}); }
  void copy_state(A* to, const A* from) const { std::copy_n(from, workspace_.state_elements, to); }
  void add_state(A* to, const A* from) const {
    for (std::int64_t e = 0; e < workspace_.state_elements; ++e) to[e] += from[e];
  }

  const Tasks& tasks_;
  const Work work_;
  const CallWorkspace<T>& workspace_;
};

}  // namespace cottention::cpu

#if defined(__clang__)
#pragma float_control(pop)
#endif
