// What this machine can do, measured beside everything else: the ceilings that results are fractions of.
//
//   machine/fma/<element>   independent multiply-adds on the target's widest vectors, each two operations
//   machine/triad           a = b + s c over arrays far larger than the last-level cache, counted as STREAM
//                           does: 24 bytes per element, without the line that a store may read first
//   machine/update          a = s a over the same memory, 16 bytes per element: the access pattern of a
//                           decoding step
#include <algorithm>
#include <thread>

#include "support.hpp"

namespace bench {
namespace {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif

// Enough independent chains to cover 4 cycles of latency on 4 pipes, and few enough for the register file to
// hold them with both operands: 32 vector registers with AVX-512 and on 64-bit Arm, 16 with AVX and SSE.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int chains = 24;
#else
constexpr int chains = 12;
#endif

constexpr std::int64_t fma_rounds = std::int64_t{1}
                                    << 21;  // tens of milliseconds: starting threads costs under 1%

/// Calls body(t) for each t in [0, threads), each on a thread of its own.
template <class Body>
void on_threads(int threads, const Body& body) {
  std::vector<std::thread> others;
  for (int t = 1; t < threads; ++t) others.emplace_back([&body, t] { body(t); });
  body(0);
  for (std::thread& other : others) other.join();
}

template <class A>
struct FmaInputs {
  A multiplier =
      static_cast<A>(0.9990234375);  // x tends to 1 from wherever it starts: no overflow, no subnormals
  A addend = static_cast<A>(0.0009765625);
};

template <class A>
A fma_chains(FmaInputs<A> inputs) {
  typedef A Vector __attribute__((vector_size(vector_bytes)));
  benchmark::DoNotOptimize(inputs);
  const Vector multiplier = inputs.multiplier - Vector{};
  const Vector addend = inputs.addend - Vector{};
  Vector x[chains];
#pragma GCC unroll 24
  for (int c = 0; c < chains; ++c) x[c] = addend * static_cast<A>(c + 2);
  for (std::int64_t round = 0; round < fma_rounds; ++round) {
#pragma GCC unroll 24
    for (int c = 0; c < chains; ++c) x[c] = x[c] * multiplier + addend;
  }
  Vector sum{};
#pragma GCC unroll 24
  for (int c = 0; c < chains; ++c) sum += x[c];
  return sum[0];
}

template <class A>
void fma_peak(benchmark::State& state, int threads) {
  std::vector<A> results(static_cast<std::size_t>(threads) * 64);  // 64 apart: no shared cache lines
  for (auto _ : state) {
    on_threads(threads, [&](int t) { results[static_cast<std::size_t>(t) * 64] = fma_chains<A>({}); });
    benchmark::ClobberMemory();
  }
  if (std::abs(results[0] - chains) > 0.01 * chains) state.SkipWithError("the chains did not converge to 1");
  const double lanes = static_cast<double>(vector_bytes) / sizeof(A);
  const double flop = 2.0 * lanes * chains * static_cast<double>(fma_rounds) * threads;
  state.counters["flop"] = benchmark::Counter(flop, benchmark::Counter::kIsIterationInvariantRate);
}

/// Elements of each of the three arrays of the triad: four times the last-level cache.
std::int64_t triad_elements() {
  const std::int64_t bytes = std::max(4 * last_level_cache_bytes(), std::int64_t{128} << 20);
  return bytes / static_cast<std::int64_t>(sizeof(double)) / 1024 * 1024;
}

struct Range {
  std::int64_t begin, end;
};
Range share(std::int64_t count, int threads, int t) {
  return {count * t / threads, count * (t + 1) / threads};
}

void triad(benchmark::State& state, int threads) {
  const std::int64_t count = triad_elements();
  const Buffer<double> a(count), b(count), c(count);
  on_threads(threads, [&](int t) {
    for (auto [i, end] = share(count, threads, t); i < end; ++i) {
      a[i] = 0.0;
      b[i] = static_cast<double>(random_value(seed_k, static_cast<std::uint64_t>(i)));
      c[i] = static_cast<double>(random_value(seed_v, static_cast<std::uint64_t>(i)));
    }
  });
  double scale = 3.0;
  benchmark::DoNotOptimize(scale);
  for (auto _ : state) {
    on_threads(threads, [&](int t) {
      const auto [begin, end] = share(count, threads, t);
      double* const to = a.data();
      const double* const from = b.data();
      const double* const scaled = c.data();
      for (std::int64_t i = begin; i < end; ++i) to[i] = from[i] + scale * scaled[i];
    });
    benchmark::ClobberMemory();
  }
  state.counters["bytes"] =
      benchmark::Counter(24.0 * static_cast<double>(count), benchmark::Counter::kIsIterationInvariantRate);
}

void update(benchmark::State& state, int threads) {
  const std::int64_t count = triad_elements();
  const Buffer<double> a = random_buffer<double>(count, seed_state);
  double scale = -1.0;
  benchmark::DoNotOptimize(scale);
  for (auto _ : state) {
    on_threads(threads, [&](int t) {
      const auto [begin, end] = share(count, threads, t);
      double* const values = a.data();
      for (std::int64_t i = begin; i < end; ++i) values[i] *= scale;
    });
    benchmark::ClobberMemory();
  }
  state.counters["bytes"] =
      benchmark::Counter(16.0 * static_cast<double>(count), benchmark::Counter::kIsIterationInvariantRate);
}

}  // namespace

void register_machine() {
  for (const int threads : thread_counts()) {
    const std::string suffix = threads_name(threads);
    add_row("machine/fma/fp32" + suffix, [=](benchmark::State& s) { fma_peak<float>(s, threads); });
    add_row("machine/fma/fp64" + suffix, [=](benchmark::State& s) { fma_peak<double>(s, threads); });
    add_row("machine/triad" + suffix, [=](benchmark::State& s) { triad(s, threads); });
    add_row("machine/update" + suffix, [=](benchmark::State& s) { update(s, threads); });
  }
}

}  // namespace bench
