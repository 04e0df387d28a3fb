// Continuous batching on a GPU: sequences join and leave a pool of recurrent states, and all that run advance
// together, a token at a time, by one step captured in a CUDA graph and replayed. Checked against the
// reference.
#include <algorithm>
#include <cstdio>
#include <random>
#include <vector>

#include <cottention/reference.hpp>
#include <cottention/step.cuh>

#include "graph.hpp"
#include "support.hpp"

namespace cottention::example {
using Attention = Problem<bfloat16, HeadDim{64, 64}, Mask::causal, Scale::by_key>;
constexpr std::int64_t lanes = 3, heads = 4, dim = 64, row = heads * dim, state = row * dim;
constexpr float scale_logit[heads] = {-1.0f, 0.0f, 0.5f, 2.0f};

struct Sequence {
  std::int64_t length, done = 0;
  std::int32_t slot = -1;            // of its state, for as long as it runs
  std::vector<bfloat16> qkv{}, o{};  // (length, 3, heads, dim), (length, heads, dim)
};
template <class Arguments>
Arguments arguments(std::int64_t batch, std::int64_t seq, const bfloat16* qkv, bfloat16* o, const float* m) {
  const Strides s{.batch = seq * 3 * row, .seq = 3 * row, .head = dim};
  return {.shape = {.batch = batch,
                    .seq_q = seq,
                    .seq_k = seq,
                    .heads_q = heads,
                    .heads_kv = heads,
                    .dim_qk = dim,
                    .dim_v = dim},
          .q = {qkv, s},
          .k = {qkv + row, s},
          .v = {qkv + 2 * row, s},
          .o = {o},
          .scale_logit = m};
}

int run() {
  if (const CallStatus device = find_device(); !device)
    return std::printf("skipped: %s\n", device.reason), 77;
  std::mt19937 random(1);
  std::vector<Sequence> sequences{{60}, {90}, {10}, {1}, {149}};
  Stream stream;
  DeviceArray<bfloat16> qkv, o;  // of a token for each lane
  DeviceArray<float> h, m;
  DeviceArray<std::int64_t> count;
  DeviceArray<std::int32_t> slot;
  check(stream.create()), check(m.upload(scale_logit, stream)), check(h.reserve(lanes * state));
  check(qkv.reserve(lanes * 3 * row)), check(o.reserve(lanes * row)), check(count.reserve(lanes));
  check(slot.reserve(lanes));
  auto args = arguments<StepArguments<bfloat16>>(lanes, 1, qkv.data(), o.data(), m.data());
  args.pool = {h.data(), count.data()}, args.pool_slots = lanes, args.slot = slot.data();
  Graph graph;  // keeps these addresses; what changes from token to token lies behind them
  check(graph.capture(stream, [&] { return step<Attention>(args, {}, stream.get()); }));
  std::vector<Sequence*> running;
  std::vector<std::int32_t> free_slots{2, 1, 0};
  std::vector<bfloat16> host_qkv(lanes * 3 * row), host_o(lanes * row);
  for (auto next = sequences.begin(); next != sequences.end() || !running.empty();) {
    for (; running.size() < lanes && next != sequences.end(); ++next) {  // it joins, with an empty state
      next->qkv = random_tensor<bfloat16>(next->length * 3 * row, random);
      next->slot = free_slots.back(), free_slots.pop_back(), running.push_back(&*next);
      check(h.clear(stream, next->slot * state, state)), check(count.clear(stream, next->slot, 1));
    }
    std::vector<std::int32_t> host_slot(lanes, -1);  // -1: an idle lane
    for (std::size_t i = 0; i < running.size(); ++i) {
      host_slot[i] = running[i]->slot;
      std::copy_n(&running[i]->qkv[running[i]->done++ * 3 * row], 3 * row, &host_qkv[i * 3 * row]);
    }
    check(slot.upload(host_slot, stream)), check(qkv.upload(host_qkv, stream)), check(graph.replay(stream));
    check(o.download(host_o, stream)), check(stream.wait());
    for (std::size_t i = 0; i < running.size(); ++i) {
      Sequence& s = *running[i];
      s.o.insert(s.o.end(), &host_o[i * row], &host_o[i * row] + row);
      if (s.done == s.length) free_slots.push_back(s.slot);  // it leaves
    }
    std::erase_if(running, [](Sequence* s) { return s->done == s->length; });
  }
  RelativeError error;
  for (Sequence& s : sequences) {
    auto whole = arguments<ForwardArguments<bfloat16>>(1, s.length, s.qkv.data(), nullptr, scale_logit);
    error.add(s.o, reference::forward<Attention>(whole).o);
  }
  std::printf("%zu sequences: relative RMS error %.1e\n", sequences.size(), error.value());
  return error.value() <= 3e-3 ? 0 : 1;  // bf16
}
}  // namespace cottention::example
int main() { return cottention::example::run(); }
