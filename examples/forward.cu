// Causal cosine attention over a batch on a GPU, in bf16 with grouped heads, checked against the reference.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include <cottention/owned_workspace.cuh>
#include <cottention/reference.hpp>

#include "device_support.hpp"
#include "support.hpp"

using cottention::bfloat16;

int run(int seq) {
  skip_without_device();
  constexpr std::int64_t batch = 2, heads = 8, heads_kv = 4, dim = 64;
  std::mt19937 random(1);
  const auto q = random_tensor<bfloat16>(batch * seq * heads * dim, random);
  const auto k = random_tensor<bfloat16>(batch * seq * heads_kv * dim, random);
  const auto v = random_tensor<bfloat16>(batch * seq * heads_kv * dim, random);
  const std::vector<float> scale_logit{-1.0f, 0.0f, 0.5f, 2.0f};
  std::vector<bfloat16> o(q.size());

  Stream stream;
  DeviceArray<bfloat16> device_q, device_k, device_v, device_o;
  DeviceArray<float> device_scale_logit;
  check(stream.create());
  check(device_q.upload(q, stream));
  check(device_k.upload(k, stream));
  check(device_v.upload(v, stream));
  check(device_scale_logit.upload(scale_logit, stream));
  check(device_o.reserve(o.size()));

  using Problem = cottention::Problem<bfloat16, cottention::HeadDim{dim, dim}, cottention::Mask::causal,
                                      cottention::Scale::by_key>;

  cottention::ForwardArguments<bfloat16> arguments{
      .shape = {.batch = batch,
                .seq_q = seq,
                .seq_k = seq,
                .heads_q = heads,
                .heads_kv = heads_kv,
                .dim_qk = dim,
                .dim_v = dim},
      .q = {device_q.data(), cottention::bshd},
      .k = {device_k.data(), cottention::bshd},
      .v = {device_v.data(), cottention::bshd},
      .o = {device_o.data(), cottention::bshd},
      .scale_logit = device_scale_logit.data(),
  };
  cottention::DeviceWorkspace workspace;  // scratch memory, grows as calls need
  check(cottention::forward<Problem>(arguments, workspace, stream.get()));

  check(device_o.download(o, stream));
  check(stream.wait());
  constexpr int calls = 5;
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < calls; ++i) check(cottention::forward<Problem>(arguments, workspace, stream.get()));
  check(stream.wait());
  const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;

  RelativeError error;
  arguments.q = {q.data()}, arguments.k = {k.data()}, arguments.v = {v.data()};
  arguments.scale_logit = scale_logit.data();
  error.add(o, cottention::reference::recurrence<Problem>(arguments).o);
  constexpr double bound = 3e-3;  // of bf16, where rounding the output alone costs 1.7e-3
  std::printf("o [%d, %d, %d, %d] in bf16: %.3f ms, relative RMS error %.1e, bound %.0e\n", int{batch}, seq,
              int{heads}, int{dim}, time.count() / calls, error.value(), bound);
  return error.value() <= bound ? 0 : 1;
}

int main(int argc, char** argv) {
  const int seq = argc > 1 ? std::atoi(argv[1]) : 4096;  // tokens
  if (seq >= 1) return run(seq);
  std::fprintf(stderr, "usage: %s [TOKENS]\n", argv[0]);
  return 2;
}
