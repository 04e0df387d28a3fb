// How long a call takes, and how long that is measured.
#pragma once

namespace bench {

/// How long to measure a row. Seconds.
struct Pace {
  double warm_up = 0.03;     // of calls before the first sample
  double sample = 2e-3;      // at least, of one replay of a graph; many calls where calls are short
  double repetition = 8e-3;  // of replays that one sample is the mean of
  int repetitions = 15;      // samples
  bool once = false;         // a single replay and no warm-up
};

/// Microseconds of one call.
struct Timing {
  double median = 0, fastest = 0, slowest = 0;  // replayed from a graph: the device's time alone
  double launched = 0;         // median, launched one by one: the host's time where that is longer
  int samples = 0, calls = 0;  // calls in a sample
};

}  // namespace bench
