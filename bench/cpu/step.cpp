// step/<batch>/<element>/threads:<n>: one token for each of `batch` sequences, 16 heads, dim_qk = dim_v = 64.
//
// The states of 256 sequences are 64 MiB. Calls take turns on several pools, which together are four times
// the last-level cache, so that every state comes from memory. One sequence, or 16, stays in the cache from
// call to call: those rows may pass the bandwidth of memory.
#include "attention.hpp"

namespace bench {
namespace {

constexpr std::int64_t step_heads = 16;
constexpr int step_dim = 64;
constexpr std::int64_t step_batches[] = {1, 4, 16, 64, 256};

template <class T>
struct Pool {
  using A = cottention::Accumulate<T>;
  explicit Pool(std::int64_t batch)
      : h(random_buffer<A>(batch * step_heads * step_dim * step_dim, seed_state)), count(batch) {
    for (std::int64_t b = 0; b < batch; ++b) count[b] = 1000 + b;
  }
  Buffer<A> h;
  Buffer<std::int64_t> count;
};

/// Of o after one step from the states h, for the first and the last sequence: in fp64 by the recurrence.
template <class T>
double step_error(const Attention<T>& data, const Buffer<cottention::Accumulate<T>>& h,
                  const Buffer<std::int64_t>& count) {
  const NamedShape& s = data.shape;
  Error error;
  for (const std::int64_t b : {std::int64_t{0}, s.batch - 1})
    for (std::int64_t head = 0; head < s.heads; ++head) {
      const auto row = [&](const Buffer<T>& tensor) {
        std::vector<double> values;
        Rows<T>{&tensor, s.heads, s.dim, head}.read(b, values);
        return values;
      };
      std::vector<double> q = row(data.q), k = row(data.k), v = row(data.v);
      normalise(q);
      normalise(k);
      const double weight =
          std::pow(static_cast<double>(count[b] + 1), -1.0 / (1.0 + std::exp(-data.m[head])));
      const double own = weight * dot(q, k);
      std::vector<double> o(v.size());
      for (std::size_t e = 0; e < o.size(); ++e) {
        o[e] = own * v[e];
        for (std::size_t d = 0; d < q.size(); ++d)
          o[e] += q[d] * static_cast<double>(h[static_cast<std::int64_t>(
                             (static_cast<std::size_t>(b * s.heads + head) * q.size() + d) * o.size() + e)]);
      }
      error.add(o, Rows<T>{&data.o, s.heads, s.dim, head}(b));
    }
  return error.relative();
}

template <class P>
void step(benchmark::State& state, std::int64_t batch, int threads) {
  using T = typename P::element;
  const NamedShape shape{"step", batch, step_heads, 1, step_dim};
  const Attention<T> data(shape);
  const double bytes = step_bytes(batch, step_heads, step_dim, step_dim, sizeof(cottention::Accumulate<T>));
  const auto pool_bytes = static_cast<std::int64_t>(bytes / 2);
  const std::int64_t pools_wanted =
      pool_bytes <= last_level_cache_bytes() ? 1 : 4 * last_level_cache_bytes() / pool_bytes + 1;
  std::vector<Pool<T>> pools;
  for (std::int64_t i = 0; i < pools_wanted; ++i) pools.emplace_back(batch);

  cottention::StepArguments<T> arguments{.shape = extents(shape),
                                         .q = {data.q.data()},
                                         .k = {data.k.data()},
                                         .v = {data.v.data()},
                                         .o = {data.o.data()},
                                         .scale_logit = data.m.data(),
                                         .pool_slots = batch};
  const cottention::cpu::Execution execution{.threads = threads};
  arguments.pool = {.h = pools[0].h.data(), .count = pools[0].count.data()};
  const Scratch scratch(cottention::cpu::workspace_bytes<P>(arguments, execution));
  const cottention::CallStatus first = cottention::cpu::step<P>(arguments, scratch.workspace(), execution);
  if (!first.ok()) return state.SkipWithError(first.reason);
  const double error = step_error(data, Pool<T>(batch).h, Pool<T>(batch).count);
  std::size_t turn = 0;
  for (auto _ : state) {
    const Pool<T>& pool = pools[turn++ % pools.size()];
    arguments.pool = {.h = pool.h.data(), .count = pool.count.data()};
    const cottention::CallStatus status = cottention::cpu::step<P>(arguments, scratch.workspace(), execution);
    if (!status.ok()) return state.SkipWithError(status.reason);
    benchmark::ClobberMemory();
  }
  if (!all_finite(data.o)) return state.SkipWithError("the output is not finite");
  using benchmark::Counter;
  state.counters["bytes"] = Counter(bytes, Counter::kIsIterationInvariantRate);
  state.counters["tokens"] = Counter(static_cast<double>(batch), Counter::kIsIterationInvariantRate);
  state.counters["useful_flop"] =
      Counter(count_work(Walks::forward, batch, step_heads, 1, step_dim, step_dim, 0, sizeof(T)).useful_flop,
              Counter::kIsIterationInvariantRate);
  state.counters["error"] = error;
  state.counters["pools"] = static_cast<double>(pools.size());
}

template <class T>
void register_element(std::int64_t batch) {
  using P = cottention::Problem<T, cottention::HeadDim{step_dim, step_dim}, cottention::Mask::causal,
                                cottention::Scale::by_key>;
  for (const int threads : thread_counts())
    add_row("step/" + std::to_string(batch) + "/" + cottention::element_name<T> + threads_name(threads),
            [=](benchmark::State& s) { step<P>(s, batch, threads); });
}

}  // namespace

void register_step() {
  if (!wanted(Preset::standard)) return;
  for (const std::int64_t batch : step_batches) {
    register_element<float>(batch);
    register_element<cottention::bfloat16>(batch);
  }
}

}  // namespace bench
