// Trains one attention head, its projections to q, k and v and its scale m, by Adam on recall: a sequence
// shows pairs of a key and a value, then asks for the values of the same keys. Only attention carries an
// answer to its question.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <random>
#include <vector>

#include <cottention/owned_workspace.hpp>

#include "support.hpp"

namespace cottention::example {
using Attention = Problem<float, HeadDim{32, 8}, Mask::causal, Scale::by_key>;
constexpr std::size_t batch = 16, pairs = 6, seq = 2 * pairs, tokens = batch * seq, keys = 16, values = 8;
constexpr std::size_t dim_qk = 32, dim_qkv = 2 * dim_qk + values;  // v and o are logits of values
constexpr std::size_t question = keys + values, symbols = question + 1;

int run() {
  std::mt19937 random(1);
  std::vector<float> p = random_tensor<float>(symbols * dim_qkv + 1, random);  // (symbols, [q, k, v]), then m
  p.back() = 0.5f;
  std::vector<float> gradient(p.size()), mean(p.size()), square(p.size());
  std::vector<float> qkv(tokens * dim_qkv), dqkv(qkv), o(tokens * values), dout(o);
  std::vector<std::size_t> key(tokens), other(tokens), answer(tokens), order(keys);
  HostWorkspace workspace;
  const Shape shape{.batch = batch,
                    .seq_q = seq,
                    .seq_k = seq,
                    .heads_q = 1,
                    .heads_kv = 1,
                    .dim_qk = dim_qk,
                    .dim_v = values};
  const Strides rows{.batch = seq * dim_qkv, .seq = dim_qkv};
  const Tensor<const float> q{&qkv[0], rows}, k{&qkv[dim_qk], rows}, v{&qkv[2 * dim_qk], rows};
  const Tensor<float> dq{&dqkv[0], rows}, dk{&dqkv[dim_qk], rows}, dv{&dqkv[2 * dim_qk], rows};

  double first_loss = 0, loss = 0;
  for (int step = 1; step <= 200; ++step) {
    for (std::size_t t = 0; t < tokens; ++t) {  // the questions come in the opposite order
      const std::size_t i = t % seq, shown = t - i + seq - 1 - i;
      if (i == 0) std::iota(order.begin(), order.end(), 0), std::shuffle(order.begin(), order.end(), random);
      key[t] = i < pairs ? order[i] : key[shown];
      answer[t] = i < pairs ? random() % values : answer[shown];
      other[t] = i < pairs ? keys + answer[t] : question;
      for (std::size_t j = 0; j < dim_qkv; ++j)
        qkv[t * dim_qkv + j] = p[key[t] * dim_qkv + j] + p[other[t] * dim_qkv + j];
    }
    const ForwardArguments<float> attention{
        .shape = shape, .q = q, .k = k, .v = v, .o = {o.data()}, .scale_logit = &p.back()};
    check(cpu::forward<Attention>(attention, workspace));

    loss = 0;  // cross entropy of the answers
    constexpr float each = 1.0f / (batch * pairs);
    for (std::size_t t = 0; t < tokens; ++t) {
      float sum = 0;
      for (std::size_t c = 0; c < values; ++c) sum += std::exp(o[t * values + c]);
      for (std::size_t c = 0; c < values; ++c) {
        const float slope = std::exp(o[t * values + c]) / sum - (c == answer[t] ? 1.0f : 0.0f);
        dout[t * values + c] = other[t] == question ? each * slope : 0.0f;
      }
      if (other[t] == question) loss += each * (std::log(sum) - o[t * values + answer[t]]);
    }
    const BackwardArguments<float> arguments{.shape = shape,
                                             .q = q,
                                             .k = k,
                                             .v = v,
                                             .dout = {dout.data()},
                                             .dq = dq,
                                             .dk = dk,
                                             .dv = dv,
                                             .scale_logit = &p.back(),
                                             .dscale_logit = &gradient.back()};
    check(cpu::backward<Attention>(arguments, workspace));

    std::fill(gradient.begin(), gradient.end() - 1, 0.0f);
    for (std::size_t t = 0; t < tokens; ++t)
      for (const std::size_t symbol : {key[t], other[t]})
        for (std::size_t j = 0; j < dim_qkv; ++j) gradient[symbol * dim_qkv + j] += dqkv[t * dim_qkv + j];
    for (std::size_t i = 0; i < p.size(); ++i) {
      mean[i] += 0.1f * (gradient[i] - mean[i]);
      square[i] += 0.01f * (gradient[i] * gradient[i] - square[i]);
      p[i] -= 0.03f * mean[i] / (std::sqrt(square[i]) + 1e-8f);
    }
    if (step == 1) first_loss = loss;
    if (step % 50 == 0 || step == 1)
      std::printf("step %3d  loss %.4f  m %+.3f\n", step, loss, double{p.back()});
  }
  return loss < 0.05 * first_loss ? 0 : 1;
}
}  // namespace cottention::example

int main() { return cottention::example::run(); }
