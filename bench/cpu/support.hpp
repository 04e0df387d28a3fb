// What the benchmarks share: shapes, inputs, names of rows.
//
// A row is named call/shape/mask/element/threads:n. Times are wall-clock times.
#pragma once

#include <benchmark/benchmark.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include <cottention/cpu.hpp>

#include "../flops.hpp"
#include "../preset.hpp"

namespace bench {

/// Sizes of one attention layer; dim_qk = dim_v = dim.
struct NamedShape {
  std::string name;
  std::int64_t batch, heads, seq;
  int dim;
};

inline const NamedShape shapes[] = {
    {"A", 1, 12, 512, 64},   {"B", 1, 16, 1024, 64}, {"C", 1, 16, 4096, 64},
    {"D", 1, 16, 16384, 64}, {"E", 2, 8, 2048, 128},
};
/// One head: only cutting the sequence up can keep several threads busy.
inline const NamedShape long_shape = {"long", 1, 1, 131072, 64};

/// A shape under the name batch x heads x length x dim.
inline NamedShape spelled(std::int64_t batch, std::int64_t heads, std::int64_t seq, int dim) {
  return {std::to_string(batch) + "x" + std::to_string(heads) + "x" + std::to_string(seq) + "x" +
              std::to_string(dim),
          batch, heads, seq, dim};
}

inline cottention::Shape extents(const NamedShape& s) {
  return {.batch = s.batch,
          .seq_q = s.seq,
          .seq_k = s.seq,
          .heads_q = s.heads,
          .heads_kv = s.heads,
          .dim_qk = s.dim,
          .dim_v = s.dim};
}

/// Memory of the benchmark: aligned as a workspace must be.
template <class T>
class Buffer {
 public:
  explicit Buffer(std::int64_t count) : count_(count) {
    constexpr std::size_t line = cottention::workspace_alignment;
    const std::size_t bytes = (static_cast<std::size_t>(count) * sizeof(T) + line - 1) / line * line;
    data_.reset(static_cast<T*>(std::aligned_alloc(line, bytes == 0 ? line : bytes)));
    if (!data_) throw std::bad_alloc();
  }
  T* data() const { return data_.get(); }
  std::int64_t size() const { return count_; }
  T& operator[](std::int64_t i) const { return data_.get()[i]; }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::int64_t count_;
  std::unique_ptr<T, Free> data_;
};

/// The i-th of a reproducible sequence, uniform in [-1, 1): the finaliser of MurmurHash3.
/// bench/peers/pytorch_peers.py computes the same numbers, so that outputs can be compared across the two.
constexpr float random_value(std::uint32_t seed, std::uint64_t i) {
  auto x = static_cast<std::uint32_t>(i) + seed * 0x9e3779b9u;
  x ^= x >> 16;
  x *= 0x85ebca6bu;
  x ^= x >> 13;
  x *= 0xc2b2ae35u;
  x ^= x >> 16;
  return static_cast<float>(x >> 8) * 0x1p-23f - 1.0f;
}

enum Seed : std::uint32_t { seed_q = 1, seed_k, seed_v, seed_dout, seed_scale, seed_state };

template <class T>
Buffer<T> random_buffer(std::int64_t count, Seed seed) {
  Buffer<T> buffer(count);
  for (std::int64_t i = 0; i < count; ++i)
    buffer[i] = static_cast<T>(random_value(seed, static_cast<std::uint64_t>(i)));
  return buffer;
}

/// Written once, so that no page is touched for the first time while the clock runs.
template <class T>
Buffer<T> output_buffer(std::int64_t count) {
  Buffer<T> buffer(count);
  for (std::int64_t i = 0; i < count; ++i) buffer[i] = static_cast<T>(std::nanf(""));
  return buffer;
}

/// m around its initial value in the published models, 0.5.
template <class A>
Buffer<A> scale_logits(std::int64_t heads) {
  Buffer<A> m(heads);
  for (std::int64_t h = 0; h < heads; ++h)
    m[h] = 0.5f + 0.1f * random_value(seed_scale, static_cast<std::uint64_t>(h));
  return m;
}

/// Whether a call wrote all of its output.
template <class T>
bool all_finite(const Buffer<T>& buffer) {
  for (std::int64_t i = 0; i < buffer.size(); ++i)
    if (!std::isfinite(cottention::to_double(buffer[i]))) return false;
  return true;
}

/// The thread counts of the rows; set by --threads before anything is registered.
std::vector<int>& thread_counts();

/// Which rows there are; set by --preset.
Preset& preset();
inline bool wanted(Preset rows) { return includes(preset(), rows); }

/// Bytes of the last-level cache, for what must not fit in it.
std::int64_t last_level_cache_bytes();

inline void set_counters(benchmark::State& state, const Work& work) {
  using benchmark::Counter;
  state.counters["useful_flop"] = Counter(work.useful_flop, Counter::kIsIterationInvariantRate);
  state.counters["chunk_free_flop"] = Counter(work.chunk_free_flop, Counter::kIsIterationInvariantRate);
  state.counters["tokens"] = Counter(work.tokens, Counter::kIsIterationInvariantRate);
  state.counters["bytes"] = Counter(work.bytes, Counter::kIsIterationInvariantRate);
}

/// Registers `function(state)` as a row measured in wall-clock time.
template <class Function>
auto* add_row(const std::string& name, Function function) {
  return benchmark::RegisterBenchmark(name.c_str(), function)->UseRealTime()->Unit(benchmark::kMillisecond);
}

inline std::string threads_name(int threads) { return "/threads:" + std::to_string(threads); }

constexpr const char* mask_name(cottention::Mask mask) {
  return mask == cottention::Mask::causal ? "causal" : "bidirectional";
}

void register_machine();
void register_forward();
void register_packed();
void register_prefill();
void register_backward();
void register_step();
void register_memory();

}  // namespace bench
