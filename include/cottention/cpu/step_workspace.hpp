// The scratch memory of a step, and how many threads it uses.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <cottention/arguments.hpp>
#include <cottention/cpu/scratch.hpp>
#include <cottention/pool.hpp>
#include <cottention/workspace_layout.hpp>

namespace cottention::cpu {

/// A thread is woken for at least so many bytes of states, times tokens: 256 KiB take one thread about 4
/// microseconds.
inline constexpr double step_bytes_per_thread = 262144;

/// Elements for partial sums of runs, for each row of o: eight vectors of 64 bytes.
inline constexpr std::int64_t partial_lanes = 128;

/// A thread's scratch: counts, weights and rows of all tokens of one head of a lane and its query group.
template <class A>
struct StepScratch {
  double* n;   // (tokens)
  A* weight;   // (tokens)
  A* k;        // (tokens, pitch_qk)
  A* v;        // (tokens, pitch_v)
  A* q;        // (group * tokens, pitch_qk)
  A* o;        // (group * tokens, pitch_v)
  A* partial;  // (group * tokens, partial_lanes): sums of the latest runs, for each row of o

  static StepScratch take(Carver& carver, const Shape& s) {
    const std::int64_t tokens = row_pitch(s.seq_q), group = s.heads_q / s.heads_kv;
    StepScratch x{};
    x.n = carver.take<double>(tokens);
    x.weight = carver.take<A>(tokens);
    x.k = carver.take<A>(tokens, row_pitch(s.dim_qk));
    x.v = carver.take<A>(tokens, row_pitch(s.dim_v));
    x.q = carver.take<A>(tokens, group, row_pitch(s.dim_qk));
    x.o = carver.take<A>(tokens, group, row_pitch(s.dim_v));
    x.partial = carver.take<A>(tokens, group, partial_lanes);
    return x;
  }
};

/// How many threads a step uses, and the parts of its workspace.
struct StepWorkspace {
  int threads = 1;                     // that the work is large enough for
  std::int64_t scratch_bytes = 0;      // of one thread
  std::int32_t* slots_seen = nullptr;  // (batch), for validate_contents
  std::byte* scratch = nullptr;        // (threads, scratch_bytes)
};

/// Places a step's workspace, or counts its bytes where the carver has no memory.
template <Element T>
StepWorkspace take_step_workspace(Carver& carver, const Shape& s, int threads) {
  StepWorkspace w;
  const std::int64_t tasks = s.batch * s.heads_kv;
  const double state_bytes = static_cast<double>(s.dim_qk * s.dim_v) * sizeof(Accumulate<T>);
  const double worth =
      static_cast<double>(tasks) * state_bytes * static_cast<double>(s.seq_q) / step_bytes_per_thread;
  w.threads = static_cast<int>(
      std::clamp((std::min)(worth, static_cast<double>(tasks)), 1.0, static_cast<double>(threads)));
  w.slots_seen = carver.take<std::int32_t>(s.batch);
  if (tasks == 0) return w;
  Carver scratch;
  StepScratch<Accumulate<T>>::take(scratch, s);
  w.scratch_bytes = scratch.extent();
  w.scratch = carver.take<std::byte>(threads, w.scratch_bytes);
  return w;
}

}  // namespace cottention::cpu
