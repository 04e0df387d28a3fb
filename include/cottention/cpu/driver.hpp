// Runs the walk tasks of a call on the caller's threads, within the caller's workspace.
#if !defined(COTTENTION_CPU_DRIVER_HPP)
#define COTTENTION_CPU_DRIVER_HPP

#include <atomic>
#include <memory>
#include <thread>

#include <cottention/cpu/execution.hpp>
#include <cottention/cpu/prefix_sum.hpp>
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
    SplitQueue<Driver> queue(*this, workspace_.progress, workspace_.entry_count, work_.tasks);
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

  /// The sum for the gradient of m of the task with this index among those that have one.
  double scale_grad_sum(std::int64_t scale_grad_index) const {
    return workspace_.scale_grad_sums[scale_grad_index];
  }

  // What SplitQueue calls.
  bool is_split(std::int64_t i) const {
    if (workspace_.entry_count == 0) return false;
    const WalkTask<T> task = tasks_.task(i);
    if (pieces(task, tasks_.rows(i)).count < 2 || is_single(task)) return false;
    if (const SplitCounts counts = extent(i); counts.sums + counts.walks < 2) return false;
    return tasks_.rows(i) > work_.rows / workspace_.threads ||
           left_over_tasks(work_, workspace_.threads).contain(i);
  }
  SplitCounts extent(std::int64_t i) const {
    const WalkTask<T> task = tasks_.task(i);
    const std::int64_t sums = pieces(task, task.walk.bc_rows).count;
    if (!causal || task.walk.a_rows == 0) return {sums, pieces(task, task.walk.a_rows).count, false};
    return {task.final == nullptr ? sums - 1 : sums, sums, true};
  }
  void begin(std::int64_t i, int entry) {
    const WalkTask<T> task = tasks_.task(i);
    std::construct_at(open_task(entry), OpenTask<T>{task, i, prefix(entry)});
    load(task, open_task(entry)->prefix);
  }
  void end(std::int64_t, int entry, double scale_grad_sum) {
    OpenTask<T>& open = *open_task(entry);
    store(open.task, open.prefix);
    store_scale_grad_sum(open.index, scale_grad_sum);
  }

 private:
  /// What belongs to one thread.
  struct Thread {
    std::byte* scratch;
    Unit* unit;  // null: not used
  };
  /// A task that a thread is running, with states in the thread's scratch.
  struct ActiveWalk {
    std::int64_t index = 0;
    WalkTask<T> task;
    Walker<T, block, vector_bytes> walker;
    std::int64_t rows = 0;  // of a chunk
    PrefixSum<A> prefix;    // the state before the piece
    State sum;              // of the piece's chunks
    A* h = nullptr;         // before the chunk: prefix + sum
    double part = 0;        // of the sum for the gradient of m, the piece's
    double scale_grad_sum = 0;

    /// Where a chunk is added to the sum.
    StateUpdate<A> update() {
      const A* const from = sum.read();
      sum.zero = false;
      return {sum.data, from, h, prefix.read()};
    }
    /// The state before the chunk that comes next; null where it is zero.
    const A* state() const { return sum.zero ? prefix.read() : prefix.zero ? sum.data : h; }
    /// Makes the prefix the state of the chunks that follow.
    void set_state() {
      if (!prefix.zero) walker.set_state(prefix.value);
    }
    /// Ends a piece. Where `adds`, its sum is complete and becomes part of the prefix.
    void end_piece(bool adds, std::int64_t state_elements) {
      scale_grad_sum += part;
      part = 0;
      if (adds && prefix.zero)
        std::swap(prefix.value, sum.data), begin_sum(prefix, state_elements);
      else if (adds)
        add_to_sum(prefix, sum.data, state_elements);
      sum.zero = true;
    }
  };

  /// Whether a matrix unit, where there is one, serves walks of the task's dimensions.
  static bool has_tiles(const WalkTask<T>& task) {
    return tiles_serve(tile_parts_of<T>, task.walk.dim_a(), task.walk.dim_c());
  }
  Unit* unit_of(const WalkTask<T>& task, const Thread& thread) const {
    return has_tiles(task) ? thread.unit : nullptr;
  }
  std::int64_t rows_of_chunk(const WalkTask<T>& task) const {
    return chunk_rows(task.walk.dim_a(), task.walk.dim_c(), block, uses_matrix_unit_ && has_tiles(task));
  }
  Pieces pieces(const WalkTask<T>& task, std::int64_t rows) const {
    return {rows, workspace_.state_elements, rows_of_chunk(task)};
  }
  OpenTask<T>* open_task(int entry) const { return workspace_.open_tasks + entry; }
  PrefixSum<A> prefix(int entry) const {
    A* const states = workspace_.states + entry * PrefixSum<A>::states * workspace_.state_elements;
    return {states, states + workspace_.state_elements};
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
                                   .tile_parts = has_tiles(task) ? tile_parts_of<T> : 0,
                                   .a_pitch = row_pitch(task.walk.dim_a()),
                                   .c_pitch = row_pitch(task.walk.dim_c())});
  }
  ActiveWalk activate(std::int64_t index, const WalkTask<T>& task, const Thread& thread, int number) const {
    const std::int64_t rows = rows_of_chunk(task), elements = workspace_.state_elements;
    const auto parts = take_scratch(task, thread.scratch, workspace_.states_per_thread, rows);
    A* const states = parts.states + number * states_per_task * elements;
    ActiveWalk m;
    m.index = index;
    m.task = task;
    m.rows = rows;
    m.prefix = {states, states + elements};
    m.sum.data = states + 2 * elements;
    m.h = states + 3 * elements;
    // A causal walk transposes its state before each chunk, a bidirectional one once for many.
    m.walker = {task.walk, parts.operands, causal ? parts.transposed : m.h, unit_of(task, thread)};
    return m;
  }

  /// f(active walk, first row, rows) for each chunk of the piece, one walk after the other.
  template <class F>
  void each_chunk(ActiveWalk* active, int count, const Pieces& p, std::int64_t piece, F f) const {
    const std::int64_t step = active->rows;
    for (int i = 0; i < count; ++i) active[i].walker.seek(p.first(piece));
    for (std::int64_t t = p.first(piece); t < p.last(piece); t += step)
      for (int i = 0; i < count; ++i) {
        const bool last = i + 1 == count;
        active[i].walker.set_next(active[last ? 0 : i + 1].walker, last ? t + step : t);
        f(active[i], t, static_cast<int>((std::min)(step, p.last(piece) - t)));
      }
  }
  void store_scale_grad_sum(std::int64_t index, double sum) const {
    if (const std::int64_t at = tasks_.scale_grad_index(index); at >= 0) workspace_.scale_grad_sums[at] = sum;
  }
  void reduce(ActiveWalk* active, int count, const Pieces& p, std::int64_t piece) const {
    for (int i = 0; i < count; ++i) active[i].sum.zero = true;
    each_chunk(active, count, p, piece, [](ActiveWalk& m, std::int64_t t, int rows) {
      StateUpdate<A> to = m.update();
      to.base = nullptr;
      m.walker.reduce_chunk(t, rows, to);
    });
  }
  /// Applies the state `prefix` of each walk.
  void apply(ActiveWalk* active, int count, const Pieces& p, std::int64_t piece) const {
    each_chunk(active, count, p, piece, [](ActiveWalk& m, std::int64_t t, int rows) {
      m.part += m.walker.apply_rows(t, rows, m.prefix.read());
    });
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
    if (causal && active->task.walk.a_rows > 0)
      walk_all(active, count);
    else
      reduce_and_apply_all(active, count);
    for (int i = 0; i < count; ++i) {
      store(active[i].task, active[i].prefix);
      store_scale_grad_sum(active[i].index, active[i].scale_grad_sum);
    }
  }

  /// All pieces of walks of one sequence, from their prefixes, which become their final states.
  void walk_all(ActiveWalk* active, int count) const {
    const Pieces p = pieces(active->task, active->task.walk.bc_rows);
    for (std::int64_t piece = 0; piece < p.count; ++piece) {
      const bool more = piece + 1 < p.count || active->task.final != nullptr;
      each_chunk(active, count, p, piece, [&](ActiveWalk& m, std::int64_t t, int rows) {
        const A* const before = m.state();
        m.part += m.walker.walk_chunk(t, rows, before,
                                      more || t + rows < p.last(piece) ? m.update() : StateUpdate<A>{});
      });
      for (int i = 0; i < count; ++i) active[i].end_piece(more, workspace_.state_elements);
    }
  }

  /// The same without a mask, and of walks that make a state alone.
  void reduce_and_apply_all(ActiveWalk* active, int count) const {
    const Pieces sums = pieces(active->task, active->task.walk.bc_rows);
    for (std::int64_t piece = 0; piece < sums.count; ++piece) {
      reduce(active, count, sums, piece);
      for (int i = 0; i < count; ++i) active[i].end_piece(true, workspace_.state_elements);
    }
    for (int i = 0; i < count; ++i) active[i].set_state();
    const Pieces outputs = pieces(active->task, active->task.walk.a_rows);
    for (std::int64_t piece = 0; piece < outputs.count; ++piece) {
      apply(active, count, outputs, piece);
      for (int i = 0; i < count; ++i) active[i].end_piece(false, workspace_.state_elements);
    }
  }

  /// A task whose sequence is one chunk. The first rows of `next` are prefetched.
  void run_single(std::int64_t index, const WalkTask<T>& task, const WalkParams<T>& next,
                  const Thread& thread) const {
    const std::int64_t rows = (std::max)(task.walk.a_rows, task.walk.bc_rows);
    const bool has_state = task.initial != nullptr || task.final != nullptr;
    const auto parts = take_scratch(task, thread.scratch, has_state ? 1 : 0, round_up(rows, block));
    Walker<T, block, vector_bytes> walker(task.walk, parts.operands, parts.transposed, unit_of(task, thread));
    walker.set_next(next, 0);
    A* const h = parts.states;
    if (task.initial != nullptr) load_state(task, h);
    walker.seek(0);
    const int a_rows = static_cast<int>(task.walk.a_rows);
    walker.begin_chunk(0, a_rows, static_cast<int>(task.walk.bc_rows));
    const A* const initial = task.initial == nullptr ? nullptr : h;
    store_scale_grad_sum(index, walker.template walk_rows<causal>(
                                    0, a_rows, initial,
                                    task.final == nullptr ? StateUpdate<A>{} : StateUpdate<A>{h, initial}));
    store_state(task, h);
  }

  /// Works on split tasks until none is left.
  void run_split_tasks(SplitQueue<Driver>& queue, const Thread& thread) const {
    for (;;) {
      const Assignment assignment = queue.next();
      using Kind = Assignment::Kind;
      if (assignment.kind == Kind::none) return;
      if (assignment.kind == Kind::wait) {
        std::this_thread::yield();
        continue;
      }
      const OpenTask<T>& open = *open_task(assignment.entry);
      ActiveWalk m = activate(open.index, open.task, thread, 0);
      if (assignment.kind == Kind::walk) {
        walk_piece(m, assignment);
      } else if (assignment.kind == Kind::reduce) {
        reduce(&m, 1, pieces(m.task, m.task.walk.bc_rows), assignment.piece);
        wait_for_prefix(assignment);
        add_to_prefix(assignment, m.sum.data);
      } else {
        m.prefix = open.prefix;
        m.set_state();
        apply(&m, 1, pieces(m.task, m.task.walk.a_rows), assignment.piece);
      }
      queue.done(assignment, m.part);
    }
  }

  /// One piece of a causal walk that is split. The sums of the piece's chunks come first, so that the thread
  /// with the next piece gets its prefix before this one's outputs are computed.
  void walk_piece(ActiveWalk& m, const Assignment& assignment) const {
    const std::int64_t elements = workspace_.state_elements, piece = assignment.piece;
    const Pieces p = pieces(m.task, m.task.walk.bc_rows);
    const bool more = piece + 1 < p.count || m.task.final != nullptr;
    A* const sums = m.h + elements;  // after each chunk
    const auto sum_before = [&](std::int64_t t) {
      return sums + ((t - p.first(piece)) / m.rows - 1) * elements;
    };
    each_chunk(&m, 1, p, piece, [&](ActiveWalk&, std::int64_t t, int rows) {
      if (!more && t + rows == p.last(piece)) return;
      A* const before = sum_before(t);
      m.walker.reduce_chunk(t, rows, {before + elements, t == p.first(piece) ? nullptr : before});
    });
    wait_for_prefix(assignment);
    const PrefixSum<A>& prefix = open_task(assignment.entry)->prefix;
    m.prefix.zero = prefix.zero;
    if (!prefix.zero) std::copy_n(prefix.value, elements, m.prefix.value);
    if (more) add_to_prefix(assignment, sum_before(p.last(piece) + m.rows - 1));
    each_chunk(&m, 1, p, piece, [&](ActiveWalk&, std::int64_t t, int rows) {
      const A* h = m.prefix.read();
      if (t > p.first(piece)) {
        const A* const sum = sum_before(t);
        if (h != nullptr) add_states(m.h, h, sum, elements);
        h = h != nullptr ? m.h : sum;
      }
      m.part += m.walker.walk_chunk(t, rows, h, {});
    });
  }
  /// Waits until the states of all pieces before this one are added.
  void wait_for_prefix(const Assignment& assignment) const {
    while (!workspace_.progress[assignment.entry].is_added_up_to(assignment.piece)) std::this_thread::yield();
  }
  void add_to_prefix(const Assignment& assignment, const A* sum) const {
    add_to_sum(open_task(assignment.entry)->prefix, sum, workspace_.state_elements);
    workspace_.progress[assignment.entry].added();
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
  void load(const WalkTask<T>& task, PrefixSum<A>& prefix) const {
    prefix.zero = true;
    if (task.initial == nullptr) return;
    load_state(task, prefix.value);
    begin_sum(prefix, workspace_.state_elements);
  }
  void store(const WalkTask<T>& task, const PrefixSum<A>& prefix) const {
    if (task.final == nullptr) return;
    if (prefix.zero) std::fill_n(prefix.value, workspace_.state_elements, A{0});
    store_state(task, prefix.value);
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
