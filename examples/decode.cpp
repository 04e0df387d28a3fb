// Continuous batching: sequences join and leave a pool of recurrent states. A prompt is absorbed by one
// parallel forward; then all running sequences advance together, a token at a time. Checked against the
// reference.
#include <algorithm>
#include <cstdio>
#include <random>
#include <vector>

#include <cottention/owned_workspace.hpp>
#include <cottention/reference.hpp>

#include "support.hpp"

namespace cottention::example {
using Attention = Problem<float, HeadDim{32, 32}, Mask::causal, Scale::by_key>;
constexpr std::int64_t lanes = 3, heads = 4, dim = 32, row = heads * dim, state = heads * dim * dim;
constexpr float scale_logit[heads] = {-1.0f, 0.0f, 0.5f, 2.0f};
using Rows = std::vector<float>;

struct Sequence {
  std::int64_t prompt, length, done = 0;
  Rows qkv{}, o{};  // (length, 3, heads, dim), (length, heads, dim)
};

template <class Arguments>
Arguments arguments(std::int64_t batch, std::int64_t seq, const Rows& qkv, Rows& o) {
  const Strides strides{.batch = seq * 3 * row, .seq = 3 * row, .head = dim};
  const auto part = [&](int i) { return Tensor<const float>{qkv.data() + i * row, strides}; };
  return {.shape = {.batch = batch,
                    .seq_q = seq,
                    .seq_k = seq,
                    .heads_q = heads,
                    .heads_kv = heads,
                    .dim_qk = dim,
                    .dim_v = dim},
          .q = part(0),
          .k = part(1),
          .v = part(2),
          .o = {o.data()},
          .scale_logit = scale_logit};
}

int run() {
  std::mt19937 random(1);
  std::vector<Sequence> sequences{{40, 60}, {7, 90}, {100, 110}, {1, 50}, {64, 65}, {33, 120}};
  for (Sequence& s : sequences)
    s.qkv = random_tensor<float>(s.length * 3 * row, random), s.o.resize(s.qkv.size() / 3);
  // The states of the lanes and one token for each: the same memory however long the sequences grow.
  Rows h(lanes * state), qkv(lanes * 3 * row), o(lanes * row);
  std::vector<std::int64_t> count(lanes);
  std::vector<std::int32_t> slot(lanes);
  std::vector<Sequence*> running(lanes);
  HostWorkspace workspace;

  int steps = 0;
  for (auto waiting = sequences.begin();; ++steps) {
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      Sequence*& s = running[lane];
      if (s != nullptr && s->done == s->length) s = nullptr;  // it leaves,
      if (s == nullptr && waiting != sequences.end()) {       // and the next one joins
        s = &*waiting++;
        auto prompt = arguments<ForwardArguments<float>>(1, s->prompt, s->qkv, s->o);
        const auto its_slot = static_cast<std::int32_t>(lane);
        prompt.final_state = {h.data(), count.data()}, prompt.pool_slots = lanes,
        prompt.write_slot = &its_slot;
        check(cpu::forward<Attention>(prompt, workspace));
        s->done = s->prompt;
      }
      slot[lane] = s == nullptr ? -1 : static_cast<std::int32_t>(lane);  // -1: an idle lane
      if (s != nullptr) std::copy_n(s->qkv.begin() + s->done * 3 * row, 3 * row, &qkv[lane * 3 * row]);
    }
    if (std::count(slot.begin(), slot.end(), -1) == lanes) break;
    auto tokens = arguments<StepArguments<float>>(lanes, 1, qkv, o);
    tokens.pool = {h.data(), count.data()}, tokens.pool_slots = lanes, tokens.slot = slot.data();
    check(cpu::step<Attention>(tokens, workspace));
    for (std::size_t lane = 0; lane < lanes; ++lane)
      if (Sequence* s = running[lane]) std::copy_n(&o[lane * row], row, s->o.begin() + s->done++ * row);
  }

  RelativeError error;
  for (Sequence& s : sequences) {
    const auto whole = arguments<ForwardArguments<float>>(1, s.length, s.qkv, s.o);
    error.add(s.o, reference::forward<Attention>(whole).o);
  }
  std::printf("%zu sequences in %d steps of %d lanes with %zu bytes of state: relative RMS error %.1e\n",
              sequences.size(), steps, int{lanes}, h.size() * sizeof(float), error.value());
  return error.value() <= 1e-6 ? 0 : 1;  // fp32
}

}  // namespace cottention::example

int main() { return cottention::example::run(); }
