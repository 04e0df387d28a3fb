// The size of a call's scratch memory, and where each part lies in the caller's workspace.
#pragma once

#include <algorithm>
#include <cstddef>

#include <cottention/cpu/call_view.hpp>
#include <cottention/cpu/schedule.hpp>
#include <cottention/cpu/scratch.hpp>
#include <cottention/workspace_layout.hpp>

namespace cottention::cpu {

/// The size of a call's tasks. It follows from shapes and strides alone.
struct Work {
  std::int64_t states = 0;            // batch x heads_kv
  std::int64_t tasks = 0;             // states x outputs
  std::int64_t two_output_tasks = 0;  // of the tasks, the first ones
  std::int64_t heads = 0;             // consecutive tasks that belong to one sequence
  std::int64_t rows = 0;              // of all tasks together
  std::int64_t dim_qk = 0, dim_v = 0;
  std::int64_t scale_grad_tasks = 0;  // tasks that may sum for the gradient of m
  bool sums_heads = false;            // tasks that sum over the query heads of a group
  bool two_outputs = false;           // a task may have two outputs
  bool packed = false;                // sequences may differ in length
  bool heads_adjacent = false;        // the rows of neighbouring heads are adjacent in memory
};

/// Whether there can be as much memory as a workspace for so many threads takes.
inline CallStatus validate(const Carver& carver, int threads) {
  if (carver.fits()) return {};
  return CallStatus::failure(
      StatusCode::bad_option,
      "execution.threads = %d: the workspace for so many threads and this shape would pass 2^57 bytes",
      threads);
}

/// A split task in work.
template <Element T>
struct OpenTask {
  WalkTask<T> task;
  std::int64_t index = 0;
  PrefixSum<Accumulate<T>> prefix;  // of the pieces that are added
};

/// How many threads and entries a call uses, and the parts of its workspace. Sizes follow from the head
/// dimensions, the number of threads, the number of heads and their layout, and grow with the first three;
/// they do not depend on the lengths of sequences, so a call may use less than its workspace.
template <Element T>
struct CallWorkspace {
  using A = Accumulate<T>;
  int threads = 1;                  // that the work is large enough for
  int heads_interleaved = 1;        // heads whose chunks a thread interleaves
  int entry_count = 0;              // of split tasks in work at the same time
  std::int64_t state_elements = 0;  // of one state, with rows of whole pitches
  std::int64_t states_per_thread = 0;
  std::int64_t scratch_bytes = 0;     // of one thread
  OpenTask<T>* open_tasks = nullptr;  // (entry_count)
  SplitProgress* progress = nullptr;  // (entry_count)
  std::byte* scratch = nullptr;       // (threads, scratch_bytes)
  A* states = nullptr;                // (entry_count, PrefixSum::states, state_elements)
  double* scale_grad_sums = nullptr;  // (scale_grad_tasks)
};

/// A thread is woken for at least so many rows, about 20 microseconds of work at 64 dimensions.
inline constexpr std::int64_t rows_per_thread = 128;

/// Heads whose chunks one thread interleaves at most.
inline constexpr int max_heads_interleaved = 16;

/// Where heads are adjacent in memory, a walk of one head uses a few cache lines of every page, so that each
/// page is looked up for every head, and hardware prefetches of the lines beside them are lost. So a thread
/// interleaves the chunks of several heads, up to a page of adjacent rows and 256 KiB of states.
template <Element T>
std::int64_t heads_interleaved_limit(const Work& work, std::int64_t state_elements) {
  if (!work.heads_adjacent) return 1;
  const std::int64_t row_bytes = (std::max)(work.dim_qk, work.dim_v) * static_cast<std::int64_t>(sizeof(T));
  const std::int64_t state_bytes = state_elements * static_cast<std::int64_t>(sizeof(Accumulate<T>));
  return std::clamp<std::int64_t>((std::min)({4096 / row_bytes, 262144 / state_bytes, work.heads}), 1,
                                  max_heads_interleaved);
}

/// Tasks that remain when all threads have had as many, and that threads share.
struct LeftOverTasks {
  std::int64_t first = 0, last = 0;

  bool contain(std::int64_t task) const { return first <= task && task < last; }
  std::int64_t count() const { return last - first; }
};

/// Those are the last tasks. Where all threads have as many tasks, they are the last of those with two
/// outputs, which take half as long again as the others.
inline LeftOverTasks left_over_tasks(const Work& work, std::int64_t threads) {
  const std::int64_t end = work.tasks % threads != 0 ? work.tasks : work.two_output_tasks;
  const std::int64_t left_over = end % threads;
  return {!work.packed && 3 * left_over <= 2 * threads ? end - left_over : end, end};
}

/// The largest number of heads, up to `max_heads`, that leaves no thread with more heads than one at a time
/// would. `whole` is the number of tasks that are not split.
inline std::int64_t choose_heads_interleaved(const Work& work, std::int64_t whole, int threads,
                                             std::int64_t max_heads) {
  const auto heads_of_busiest_thread = [&](std::int64_t heads_interleaved) {  // on any one thread
    const auto blocks = [&](std::int64_t heads) {
      return (heads + heads_interleaved - 1) / heads_interleaved;
    };
    const std::int64_t head_blocks = whole / work.heads * blocks(work.heads) + blocks(whole % work.heads);
    return (head_blocks + threads - 1) / threads * heads_interleaved;
  };
  while (max_heads > 1 && heads_of_busiest_thread(max_heads) > heads_of_busiest_thread(1)) --max_heads;
  return max_heads;
}

/// A thread's scratch: `states` states, and one chunk of operands, which the tasks that it interleaves share.
template <class A>
struct ThreadScratch {
  A* states;      // (states, state_elements)
  A* transposed;  // a state, for a walk with two outputs
  WalkScratch<A> operands;

  static ThreadScratch take(Carver& carver, std::int64_t states, const ScratchExtents& extents) {
    const std::int64_t elements = extents.a_pitch * extents.c_pitch;
    A* h = carver.take<A>(states, elements);
    A* transposed = carver.take<A>(extents.two_outputs && states > 0 ? 1 : 0, elements);
    return {h, transposed, WalkScratch<A>::take(carver, extents)};
  }
};

/// The states of each task that a thread interleaves: a PrefixSum, the sum of its piece, and that before its
/// chunk.
inline constexpr std::int64_t states_per_task = 4;

/// Bytes of a thread's scratch for walks with these dimensions: for chunks with so many states, and for a
/// sequence of one chunk with one state or none.
template <class A>
std::int64_t thread_scratch_bytes(std::int64_t dim_a, std::int64_t dim_c, std::int64_t block,
                                  std::int64_t states, bool sums_heads, bool two_outputs, int tile_parts) {
  ScratchExtents extents{.block = block,
                         .rows = chunk_rows(dim_a, dim_c, block, tiles_serve(tile_parts, dim_a, dim_c)),
                         .sums_heads = sums_heads,
                         .two_outputs = two_outputs,
                         .tile_parts = tiles_serve(tile_parts, dim_a, dim_c) ? tile_parts : 0,
                         .a_pitch = row_pitch(dim_a),
                         .c_pitch = row_pitch(dim_c)};
  Carver chunks;
  ThreadScratch<A>::take(chunks, states, extents);
  std::int64_t bytes = chunks.extent();
  for (const bool initial : {false, true})
    for (const bool final : {false, true}) {
      const WalkExtents single_chunk{
          .dim_a = dim_a, .dim_c = dim_c, .two_outputs = two_outputs, .initial = initial, .final = final};
      Carver single;
      extents.rows = (std::max)(block, round_up(max_single_chunk(single_chunk), block));
      ThreadScratch<A>::take(single, initial || final ? 1 : 0, extents);
      bytes = (std::max)(bytes, single.extent());
    }
  return bytes;
}

/// Places a call's workspace, or counts its bytes where the carver has no memory.
template <Element T>
CallWorkspace<T> take_workspace(Carver& carver, const Work& work, int chunk, int threads) {
  using A = Accumulate<T>;
  CallWorkspace<T> w;
  if (work.states == 0) return w;
  const std::int64_t pitch_qk = row_pitch(work.dim_qk), pitch_v = row_pitch(work.dim_v);
  w.state_elements = pitch_qk * pitch_v;
  const std::int64_t max_heads = heads_interleaved_limit<T>(work, w.state_elements);
  w.threads = static_cast<int>(std::clamp<std::int64_t>(work.rows / rows_per_thread, 1, threads));
  const Pieces pieces(
      work.tasks == 0 ? 0 : work.rows / work.tasks, w.state_elements,
      chunk_rows(work.dim_qk, work.dim_v, chunk, tiles_serve(tile_parts_of<T>, work.dim_qk, work.dim_v)));
  const bool splits = pieces.count > 1;
  const std::int64_t whole =
      work.tasks - (splits && w.threads > 1 ? left_over_tasks(work, w.threads).count() : 0);
  w.heads_interleaved = static_cast<int>(choose_heads_interleaved(work, whole, w.threads, max_heads));
  // What is interleaved has its states, and a piece of a split task one more for each of its chunks.
  const std::int64_t split_states =
      threads > 1 ? states_per_task + chunks_per_piece(w.state_elements, chunk) : 0;
  w.states_per_thread = (std::max)(max_heads * states_per_task, split_states);
  const auto scratch_bytes = [&](std::int64_t dim_a, std::int64_t dim_c, bool two_outputs) {
    return thread_scratch_bytes<A>(dim_a, dim_c, chunk, w.states_per_thread, work.sums_heads, two_outputs,
                                   tile_parts_of<T>);
  };
  w.scratch_bytes = (std::max)({scratch_bytes(work.dim_qk, work.dim_v, false),
                                scratch_bytes(work.dim_v, work.dim_qk, false),  // dq and dk exchange them
                                scratch_bytes(work.dim_qk, work.dim_v, work.two_outputs)});
  const int entry_count = threads > 1 ? threads : 0;  // as many tasks may be in work
  const bool shares = work.packed || work.tasks % w.threads != 0 || work.two_output_tasks % w.threads != 0;
  w.entry_count = w.threads > 1 && shares ? entry_count : 0;
  w.open_tasks = carver.take<OpenTask<T>>(entry_count);
  w.progress = carver.take<SplitProgress>(entry_count);
  w.scratch = carver.take<std::byte>(threads, w.scratch_bytes);
  w.states = carver.take<A>(entry_count, PrefixSum<A>::states, w.state_elements);
  w.scale_grad_sums = carver.take<double>(work.scale_grad_tasks);
  return w;
}

/// Loads the task's initial state, (dim_a, dim_c), into h, (a_pitch, c_pitch), zero past the dimensions.
template <Element T>
void load_state(const WalkTask<T>& task, Accumulate<T>* h) {
  const std::int64_t rows = task.walk.dim_a(), columns = task.walk.dim_c(), pitch = row_pitch(columns);
  std::fill_n(h, row_pitch(rows) * pitch, Accumulate<T>{0});
  if (task.initial == nullptr) return;
  const bool as_is = task.initial_layout == StateLayout::as_is;
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c)
      h[r * pitch + c] = task.initial[as_is ? r * columns + c : c * rows + r];
}

/// Stores h, (a_pitch, c_pitch), to the task's final state, (dim_a, dim_c), where that is wanted.
template <Element T>
void store_state(const WalkTask<T>& task, const Accumulate<T>* h) {
  if (task.final == nullptr) return;
  const std::int64_t rows = task.walk.dim_a(), columns = task.walk.dim_c();
  for (std::int64_t r = 0; r < rows; ++r)
    std::copy_n(h + r * row_pitch(columns), columns, task.final + r * columns);
}

}  // namespace cottention::cpu
