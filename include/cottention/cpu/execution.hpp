// The threads of the CPU backend.
#pragma once

#include <algorithm>

#include <cottention/status.hpp>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace cottention::cpu {

/// Threads for a call. By default OpenMP's, where the translation unit is compiled with OpenMP, and otherwise
/// the calling thread alone.
///
/// A process that has forked after an OpenMP region of more than one thread, of this library or any other,
/// has no such threads in the child, and GNU's libgomp waits for them for ever. There, give `run`, or a
/// `threads` of 1, which stays on the calling thread; or fork before the first call.
struct Execution {
  /// How many threads. 0: as many as OpenMP offers, 1 without OpenMP; with `run` the number must be given.
  /// A workspace is sized with the same number: threads that differ in what OpenMP offers them must be given
  /// one.
  int threads = 0;

  /// The caller's own thread pool: must call body(data, t) once for each t in [0, threads), in any order, at
  /// once or one after the other, and return when all have returned. Null: OpenMP.
  void (*run)(void* context, int threads, void (*body)(void* data, int thread), void* data) = nullptr;
  void* context = nullptr;  ///< handed to `run`

  /// The widest vectors, in bytes, that a call takes where it chooses at run time (COTTENTION_CPU_DISPATCH);
  /// the narrowest that it has are those of the compiler's flags. 0: as wide as the machine's. With the same
  /// width, and without a matrix unit, machines of different processors give results of the same bits.
  int max_vector_bytes = 0;

  /// Whether a call may use the processor's matrix unit. Without it, and where the processor has none or the
  /// operating system refuses it, calls compute in vectors; results differ by rounding. There is one for
  /// bfloat16 on x86-64 with AMX on Linux, in code with vectors of 64 bytes. Each thread configures its tiles
  /// while it works, and releases them; tiles that the caller had configured on the same thread are lost.
  bool matrix_unit = true;
};

inline CallStatus validate(const Execution& execution) {
  if (execution.max_vector_bytes < 0)
    return CallStatus::failure(StatusCode::bad_option, "execution.max_vector_bytes = %d: must be at least 0",
                               execution.max_vector_bytes);
  const int min_threads = execution.run == nullptr ? 0 : 1;
  if (execution.threads >= min_threads) return {};
  return CallStatus::failure(StatusCode::bad_option, "execution.threads = %d: must be at least %d%s",
                             execution.threads, min_threads,
                             min_threads == 1 ? " when execution.run is given" : "");
}

/// The number of threads that a call with this Execution uses at most.
inline int available_threads(const Execution& execution) {
  if (execution.threads > 0) {
#if !defined(_OPENMP)
    if (execution.run == nullptr) return 1;
#endif
    return execution.threads;
  }
#if defined(_OPENMP)
  if (execution.run == nullptr) return (std::max)(1, omp_get_max_threads());
#endif
  return 1;
}

/// body(t) for each t in [0, threads), each on a thread of its own where there are threads.
template <class Body>
void parallel(const Execution& execution, int threads, Body& body) {
  if (threads <= 1) {
    body(0);
    return;
  }
  if (execution.run != nullptr) {
    execution.run(
        execution.context, threads, [](void* data, int thread) { (*static_cast<Body*>(data))(thread); },
        &body);
    return;
  }
#if defined(_OPENMP)
  // The runtime may grant fewer threads than asked for; each then takes several shares.
#pragma omp parallel num_threads(threads)
  for (int t = omp_get_thread_num(); t < threads; t += omp_get_num_threads()) body(t);
#else
  for (int t = 0; t < threads; ++t) body(t);
#endif
}

}  // namespace cottention::cpu
