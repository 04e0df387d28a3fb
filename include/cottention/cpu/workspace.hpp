// How much scratch a call needs, and where in the caller's workspace everything lies.
#pragma once

#include <algorithm>
#include <cstddef>

#include <cottention/cpu/roles.hpp>
#include <cottention/cpu/schedule.hpp>
#include <cottention/overlap.hpp>

namespace cottention::cpu {

/// What the tasks of a call amount to. Follows from shapes and strides alone.
struct Work {
  std::int64_t states = 0;  // batch x heads_kv
  std::int64_t tasks = 0;   // states, for each output
  std::int64_t heads = 0;   // consecutive tasks that belong to one sequence
  std::int64_t rows = 0;    // of all tasks together
  std::int64_t dim_qk = 0, dim_v = 0;
  std::int64_t scale_grad_tasks = 0;  // tasks that may yield a sum for the gradient of m
  bool packed = false;                // sequences may differ in length
  bool interleaved = false;           // the rows of neighbouring heads are neighbours in memory
};

/// The bytes of a workspace, part by part. More than there are addresses for is no size.
class WorkspaceSize {
 public:
  /// Room for count times `each` things of `bytes`, aligned; returns where.
  std::size_t take(std::int64_t count, std::int64_t each, std::size_t bytes) {
    constexpr auto alignment = static_cast<std::int64_t>(workspace_alignment);
    constexpr std::int64_t most = cottention::detail::largest_span;
    const std::int64_t at = bytes_;
    std::int64_t part = 0;
    if (__builtin_mul_overflow(count, each, &part) ||
        __builtin_mul_overflow(part, static_cast<std::int64_t>(bytes), &part) || part > most - at)
      fits_ = false;
    else
      bytes_ += (part + alignment - 1) / alignment * alignment;
    return static_cast<std::size_t>(at);
  }

  std::size_t bytes() const { return fits_ ? static_cast<std::size_t>(bytes_) : 0; }

  /// Whether there can be so much memory.
  CallStatus validate(int threads) const {
    if (fits_) return {};
    return CallStatus::failure(
        StatusCode::bad_option,
        "execution.threads = %d: the workspace for so many threads and this shape would "
        "pass 2^57 bytes",
        threads);
  }

 private:
  std::int64_t bytes_ = 0;
  bool fits_ = true;
};

/// How the work is shared out, and where everything lies. Sizes follow from the head dimensions, the number
/// of threads that there are and the number of heads, and grow with each of them; the length of a sequence
/// does not matter. What is used of it may be less.
struct WorkspaceLayout {
  int threads = 1;                    // that the work is worth
  int together = 1;                   // heads that a thread walks side by side
  int slot_count = 0;                 // for split tasks
  std::int64_t state_elements = 0;    // of one state, padded
  std::int64_t scratch_elements = 0;  // of one thread: three states for each head, and its chunk's operands
  std::int64_t states_per_slot = 0;   // states of a split task
  std::size_t progress_at = 0, scratch_at = 0, states_at = 0, scale_grad_at = 0;
  WorkspaceSize size;
};

/// Fewer rows than this are not worth waking a thread for (about 20 microseconds of work at 64 dimensions).
inline constexpr std::int64_t rows_per_thread = 128;

/// Heads that one thread walks side by side at most.
inline constexpr int most_together = 8;

/// Where heads are interleaved, walking one at a time uses a few lines of every page, and what the hardware
/// fetches besides is lost. So a thread takes several at a time, up to 1 KiB of neighbouring rows and 256 KiB
/// of states.
template <Element T>
std::int64_t heads_together_at_most(const Work& work, std::int64_t state_elements) {
  if (!work.interleaved) return 1;
  const std::int64_t row_bytes = (std::max)(work.dim_qk, work.dim_v) * static_cast<std::int64_t>(sizeof(T));
  const std::int64_t state_bytes = state_elements * static_cast<std::int64_t>(sizeof(Accumulate<T>));
  return std::clamp<std::int64_t>((std::min)({1024 / row_bytes, 262144 / state_bytes, work.heads}), 1,
                                  most_together);
}

/// As many of them as leave no thread with more heads than it would have had otherwise.
inline std::int64_t heads_together(const Work& work, int threads, std::int64_t at_most) {
  const auto most_heads = [&](std::int64_t together) {  // on any one thread
    const std::int64_t groups = work.tasks / work.heads * ((work.heads + together - 1) / together);
    return (groups + threads - 1) / threads * together;
  };
  while (at_most > 1 && most_heads(at_most) > most_heads(1)) --at_most;
  return at_most;
}

template <Element T>
WorkspaceLayout workspace_layout(const Work& work, int chunk, int threads) {
  using A = Accumulate<T>;
  WorkspaceLayout w;
  if (work.states == 0) return w;
  const std::int64_t pitch_qk = padded(work.dim_qk), pitch_v = padded(work.dim_v);
  w.state_elements = pitch_qk * pitch_v;
  const std::int64_t at_most = heads_together_at_most<T>(work, w.state_elements);
  w.threads = static_cast<int>(std::clamp<std::int64_t>(work.rows / rows_per_thread, 1, threads));
  w.together = static_cast<int>(heads_together(work, w.threads, at_most));
  w.scratch_elements = ChunkScratch<A>::elements(chunk, pitch_qk, pitch_v) + 3 * at_most * w.state_elements;
  // A few split tasks at a time keep all threads busy; each holds the states between its splits.
  const int slot_count = threads > 1 ? threads / 8 + (threads % 8 != 0 ? 1 : 0) : 0;
  w.slot_count = w.threads > 1 && (work.packed || work.tasks % w.threads != 0) ? slot_count : 0;
  w.states_per_slot = split_limit(w.state_elements) + 1;
  w.size.take(slot_count, 1, sizeof(WalkTask<T>));
  w.progress_at = w.size.take(slot_count, 1, sizeof(SplitProgress));
  w.scratch_at = w.size.take(threads, w.scratch_elements, sizeof(A));
  w.states_at = w.size.take(slot_count, w.states_per_slot * w.state_elements, sizeof(A));
  w.scale_grad_at = w.size.take(work.scale_grad_tasks, max_splits, sizeof(double));
  return w;
}

/// The task's initial state as (dim_a, dim_c) with the pitch of c, zero past its dimensions.
template <Element T>
void load_state(const WalkTask<T>& task, Accumulate<T>* h) {
  const std::int64_t rows = task.walk.a.rows.dim, columns = task.walk.c.rows.dim, pitch = padded(columns);
  std::fill_n(h, padded(rows) * pitch, Accumulate<T>{0});
  if (task.initial == nullptr) return;
  const bool as_is = task.initial_layout == Layout::as_is;
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c)
      h[r * pitch + c] = task.initial[as_is ? r * columns + c : c * rows + r];
}

/// The state to where the task wants it, if it does.
template <Element T>
void store_state(const WalkTask<T>& task, const Accumulate<T>* h) {
  if (task.final == nullptr) return;
  const std::int64_t rows = task.walk.a.rows.dim, columns = task.walk.c.rows.dim;
  for (std::int64_t r = 0; r < rows; ++r)
    std::copy_n(h + r * padded(columns), columns, task.final + r * columns);
}

}  // namespace cottention::cpu
