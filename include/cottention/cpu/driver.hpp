// Runs the walk tasks of a call on the caller's threads, within the caller's workspace.
#if !defined(COTTENTION_CPU_DRIVER_HPP)
#define COTTENTION_CPU_DRIVER_HPP

#include <atomic>
#include <new>
#include <thread>

#include <cottention/cpu/execution.hpp>
#include <cottention/cpu/walk.hpp>
#include <cottention/cpu/workspace.hpp>

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::cpu::COTTENTION_CPU_TARGET {

/// `Tasks` describes the tasks of a call: `Work work()`, `WalkTask<T> task(i)`, `int64 rows(i)`, and
/// `int64 scale_grad_index(i)`, the task's index among those that sum for the gradient of m, or -1.
template <AnyProblem P, int block, int vector_bytes, class Tasks>
class Driver {
 public:
  using T = typename P::element;
  using A = Accumulate<T>;
  using State = RunningState<A>;
  using Unit = MatrixUnitOf<T, block, vector_bytes>;
  static constexpr bool causal = P::mask == Mask::causal;

  Driver(const Tasks& tasks, const CallWorkspace<T>& workspace)
      : tasks_(tasks), work_(tasks.work()), workspace_(workspace) {}

  void run(const Execution& execution) {
    uses_matrix_unit_ = execution.matrix_unit && Unit::available();
    SplitQueue<Driver> queue(*this, workspace_.progress, workspace_.entry_count, work_.tasks,
                             workspace_.threads);
    const std::int64_t blocks_per_sequence =
        (work_.heads + workspace_.heads_interleaved - 1) / workspace_.heads_interleaved;
    const std::int64_t head_blocks = work_.tasks / work_.heads * blocks_per_sequence;
    std::atomic<std::int64_t> next{0};
    auto body = [&](int thread) {
      Unit unit(uses_matrix_unit_);
      const Thread resources{workspace_.scratch + thread * workspace_.scratch_bytes,
                             uses_matrix_unit_ ? &unit : nullptr};
      const auto first_task = [&](std::int64_t i) {
        return i / blocks_per_sequence * work_.heads + i % blocks_per_sequence * workspace_.heads_interleaved;
      };
      for (std::int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < head_blocks;) {
        const std::int64_t first = first_task(i), left = work_.heads - first % work_.heads;
        // Where all threads are as fast, the block after so many is this thread's next.
        const std::int64_t after = i + workspace_.threads;
        run_whole(first, std::min<std::int64_t>(workspace_.heads_interleaved, left),
                  after < head_blocks ? first_task(after) : first, resources);
      }
      if (workspace_.entry_count > 0) run_split_tasks(queue, resources);
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
    const bool splits = tasks_.rows(i) > work_.rows / workspace_.threads ||
                        left_over_tasks(work_, workspace_.threads).contain(i);
    return splits && !is_single(tasks_.task(i));
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
  /// What belongs to one thread.
  struct Thread {
    std::byte* scratch;
    Unit* unit;  // null: not used
  };
  /// A task that a thread is running. Its states are in the thread's scratch, or, for split tasks, in the
  /// entry.
  struct ActiveWalk {
    std::int64_t index = 0;
    WalkTask<T> task;
    Walker<T, block, vector_bytes> walker;
    std::int64_t rows = 0;  // of a chunk
    A* states = nullptr;
    std::int64_t state_elements = 0;
    State prefix, h, sum;
    double scale_grad_sum = 0;

    A* state(int i) const { return states + i * state_elements; }
  };

  Pieces pieces(std::int64_t rows) const { return {rows, workspace_.state_elements, block}; }
  WalkTask<T>* open_task(int entry) const { return workspace_.open_tasks + entry; }
  A* state(int entry, int i) const {
    return workspace_.states + (entry * workspace_.states_per_entry + i) * workspace_.state_elements;
  }

  /// Takes `states` states and a chunk of `rows` rows from the thread's scratch.
  ThreadScratch<A> take_scratch(const WalkTask<T>& task, std::byte* scratch, std::int64_t states,
                                std::int64_t rows) const {
    Carver carver(scratch);
    return ThreadScratch<A>::take(carver, states,
                                  {.block = block,
                                   .rows = rows,
                                   .sums_heads = work_.sums_heads,
                                   .two_outputs = task.walk.two_outputs,
                                   .tiles = tiles_may_serve<T>,
                                   .a_pitch = row_pitch(task.walk.dim_a()),
                                   .c_pitch = row_pitch(task.walk.dim_c())});
  }
  ActiveWalk activate(std::int64_t index, const WalkTask<T>& task, const Thread& thread, int number) const {
    ActiveWalk m;
    m.index = index;
    m.task = task;
    m.rows = chunk_rows(task.walk.dim_a(), task.walk.dim_c(), block, uses_matrix_unit_);
    const auto parts =
        take_scratch(task, thread.scratch, workspace_.heads_interleaved * states_per_task, m.rows);
    m.state_elements = workspace_.state_elements;
    m.states = parts.states + states_per_task * number * m.state_elements;
    // A causal walk transposes its state before each chunk, a bidirectional one once for many.
    m.walker = {task.walk, parts.operands, causal ? parts.transposed : m.state(1), thread.unit};
    m.prefix.data = m.state(0);
    return m;
  }

  /// f(active walk, first row, rows) for each chunk of the piece, one walk after the other.
  template <class F>
  void each_chunk(ActiveWalk* active, int count, const Pieces& p, int piece, F f) const {
    const std::int64_t step = active->rows;
    for (int i = 0; i < count; ++i) {
      active[i].walker.seek(p.first(piece));
      active[i].scale_grad_sum = 0;
    }
    for (std::int64_t t = p.first(piece); t < p.last(piece); t += step)
      for (int i = 0; i < count; ++i) {
        const bool last = i + 1 == count;
        active[i].walker.set_next(active[last ? 0 : i + 1].walker, last ? t + step : t);
        f(active[i], t, static_cast<int>((std::min)(step, p.last(piece) - t)));
      }
  }
  /// Stores the piece's sums. The thread that writes a piece's outputs calls this; another thread may be
  /// reducing the same piece.
  void store_scale_grad_sums(const ActiveWalk* active, int count, int piece) const {
    for (int i = 0; i < count; ++i)
      if (const std::int64_t at = tasks_.scale_grad_index(active[i].index); at >= 0)
        workspace_.scale_grad_sums[at * max_pieces + piece] = active[i].scale_grad_sum;
  }
  /// Walks a piece. Its last chunk is not added to h but where `absorbs_last`.
  void walk(ActiveWalk* active, int count, const Pieces& p, int piece, bool absorbs_last) const {
    each_chunk(active, count, p, piece, [&](ActiveWalk& m, std::int64_t t, int rows) {
      const bool absorbs = absorbs_last || t + rows < p.last(piece);
      m.scale_grad_sum += m.walker.walk_chunk(t, rows, m.h, absorbs, m.sum);
    });
    store_scale_grad_sums(active, count, piece);
  }
  void reduce(ActiveWalk* active, int count, const Pieces& p, int piece) const {
    each_chunk(active, count, p, piece,
               [](ActiveWalk& m, std::int64_t t, int rows) { m.walker.reduce_chunk(t, rows, m.sum); });
  }
  void apply(ActiveWalk* active, int count, const Pieces& p, int piece) const {
    for (int i = 0; i < count; ++i) active[i].walker.set_state(active[i].prefix.data);
    each_chunk(active, count, p, piece, [](ActiveWalk& m, std::int64_t t, int rows) {
      m.scale_grad_sum += m.walker.apply_rows(t, rows, m.prefix.data);
    });
    store_scale_grad_sums(active, count, piece);
  }

  /// Runs tasks first to first + heads - 1 of one sequence, chunks interleaved, except those that are split.
  /// `after` is the task that probably follows.
  void run_whole(std::int64_t first, std::int64_t heads, std::int64_t after, const Thread& thread) {
    ActiveWalk active[max_heads_interleaved];
    int count = 0;
    WalkTask<T> next = tasks_.task(first);
    for (std::int64_t i = first; i < first + heads; ++i) {
      const WalkTask<T> task = next;
      next = tasks_.task(i + 1 < first + heads ? i + 1 : after);
      if (is_split(i)) continue;
      if (is_single(task))
        run_single(i, task, next.walk, thread);
      else
        active[count] = activate(i, task, thread, count), ++count;
    }
    if (count == 0) return;
    for (int i = 0; i < count; ++i) load(active[i].task, active[i].prefix);
    if constexpr (causal)
      walk_all(active, count);
    else
      reduce_and_apply_all(active, count);
    for (int i = 0; i < count; ++i) store(active[i].task, active[i].prefix);
  }

  /// All pieces of walks of one sequence, from their prefixes, which become their final states.
  void walk_all(ActiveWalk* active, int count) const {
    const Pieces p = pieces(active->task.walk.bc_rows);
    for (int piece = 0; piece < p.count; ++piece) {
      const bool more = piece + 1 < p.count || active->task.final != nullptr;
      // Where nothing came before, the state of a piece is that behind it, too.
      const bool one_state = active->prefix.zero || p.count == 1;
      for (int i = 0; i < count; ++i) {
        ActiveWalk& m = active[i];
        m.h = one_state ? m.prefix : State{m.state(1), false};
        m.sum = one_state || !more ? State{} : State{m.state(2), true};
        if (!one_state) copy_state(m.h.data, m.prefix.data);
      }
      walk(active, count, p, piece, one_state && more);
      for (int i = 0; i < count; ++i) {
        ActiveWalk& m = active[i];
        if (one_state)
          m.prefix = m.h;
        else if (more)
          add_state(m.prefix.data, m.sum.data);
      }
    }
  }

  void reduce_and_apply_all(ActiveWalk* active, int count) const {
    const Pieces sums = pieces(active->task.walk.bc_rows);
    for (int piece = 0; piece < sums.count; ++piece) {
      const bool one_state = active->prefix.zero;
      for (int i = 0; i < count; ++i)
        active[i].sum = one_state ? active[i].prefix : State{active[i].state(2), true};
      reduce(active, count, sums, piece);
      for (int i = 0; i < count; ++i)
        if (one_state)
          active[i].prefix = active[i].sum;
        else
          add_state(active[i].prefix.data, active[i].sum.data);
    }
    for (int i = 0; i < count; ++i) clear_where_zero(active[i].prefix);
    const Pieces outputs = pieces(active->task.walk.a_rows);
    for (int piece = 0; piece < outputs.count; ++piece) apply(active, count, outputs, piece);
  }

  /// A task whose sequence is one chunk. The first rows of `next` are prefetched.
  void run_single(std::int64_t index, const WalkTask<T>& task, const WalkParams<T>& next,
                  const Thread& thread) const {
    const std::int64_t rows = (std::max)(task.walk.a_rows, task.walk.bc_rows);
    const bool has_state = task.initial != nullptr || task.final != nullptr;
    const auto parts = take_scratch(task, thread.scratch, has_state ? 1 : 0, round_up(rows, block));
    ActiveWalk m;
    m.index = index;
    m.task = task;
    m.walker = {task.walk, parts.operands, parts.transposed, thread.unit};
    m.walker.set_next(next, 0);
    m.prefix.data = has_state ? parts.states : nullptr;
    load(task, m.prefix);
    m.walker.seek(0);
    const int a_rows = static_cast<int>(task.walk.a_rows);
    m.walker.begin_chunk(0, a_rows, static_cast<int>(task.walk.bc_rows));
    m.scale_grad_sum = m.walker.template walk_rows<causal>(0, a_rows, m.prefix, task.final != nullptr, m.sum);
    store_scale_grad_sums(&m, 1, 0);
    m.scale_grad_sum = 0;
    for (int piece = 1; piece < pieces(a_rows).count; ++piece) store_scale_grad_sums(&m, 1, piece);
    store(task, m.prefix);
  }

  /// Works on split tasks until none is left.
  void run_split_tasks(SplitQueue<Driver>& queue, const Thread& thread) {
    SplitCursor cursor;
    for (;;) {
      const Assignment assignment = queue.next(cursor);
      if (assignment.kind == Assignment::Kind::none) return;
      if (assignment.kind == Assignment::Kind::wait) {
        std::this_thread::yield();
        continue;
      }
      ActiveWalk m = activate(cursor.task, *open_task(assignment.entry), thread, 0);
      const Pieces sums = pieces(m.task.walk.bc_rows);
      m.sum = {assignment.yields_sum ? state(assignment.entry, assignment.piece + 1) : nullptr, true};
      if (assignment.kind == Assignment::Kind::reduce) {
        reduce(&m, 1, sums, assignment.piece);
      } else if constexpr (causal) {
        m.h.data = m.state(1);
        m.h.zero = assignment.piece == 0 && m.task.initial == nullptr;
        if (!m.h.zero) copy_state(m.h.data, state(assignment.entry, assignment.piece));
        walk(&m, 1, sums, assignment.piece, false);
      } else {
        m.prefix = {state(assignment.entry, sums.count), false};
        apply(&m, 1, pieces(m.task.walk.a_rows), assignment.piece);
      }
      queue.done(assignment);
    }
  }

  static bool is_single(const WalkTask<T>& task) {
    const WalkParams<T>& w = task.walk;
    return w.bc_heads > 0 && is_single_chunk({.a_rows = w.a_rows,
                                              .bc_rows = w.bc_rows,
                                              .dim_a = w.dim_a(),
                                              .dim_c = w.dim_c(),
                                              .causal = causal,
                                              .two_outputs = w.two_outputs,
                                              .initial = task.initial != nullptr,
                                              .final = task.final != nullptr});
  }
  /// Loads the initial state, where there is one.
  static void load(const WalkTask<T>& task, State& h) {
    h.zero = task.initial == nullptr;
    if (!h.zero) load_state(task, h.data);
  }
  void store(const WalkTask<T>& task, State& h) const {
    if (task.final == nullptr) return;
    clear_where_zero(h);
    store_state(task, h.data);
  }
  void clear_where_zero(State& h) const {
    if (h.zero) std::fill_n(h.data, workspace_.state_elements, A{0});
    h.zero = false;
  }
  void copy_state(A* to, const A* from) const { std::copy_n(from, workspace_.state_elements, to); }
  void add_state(A* to, const A* from) const {
    for (std::int64_t e = 0; e < workspace_.state_elements; ++e) to[e] += from[e];
  }

  const Tasks& tasks_;
  const Work work_;
  const CallWorkspace<T>& workspace_;
  bool uses_matrix_unit_ = false;
};

}  // namespace cottention::cpu::COTTENTION_CPU_TARGET

#if defined(__clang__)
#pragma float_control(pop)
#endif

#endif
