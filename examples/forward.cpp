// Causal cosine attention over a batch, in bf16 with grouped heads, checked against the reference.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include <cottention/cpu.hpp>
#include <cottention/reference.hpp>

#include "support.hpp"

using cottention::bfloat16;

int main() {
  constexpr std::int64_t batch = 2, seq = 500, heads = 8, heads_kv = 4, dim = 64;
  std::mt19937 random(1);
  const auto q = random_tensor<bfloat16>(batch * seq * heads * dim, random);
  const auto k = random_tensor<bfloat16>(batch * seq * heads_kv * dim, random);
  const auto v = random_tensor<bfloat16>(batch * seq * heads_kv * dim, random);
  const std::vector<float> scale_logit{-1.0f, 0.0f, 0.5f, 2.0f};
  std::vector<bfloat16> o(q.size());

  using Problem = cottention::Problem<bfloat16, cottention::HeadDim{dim, dim}, cottention::Mask::causal,
                                      cottention::Scale::by_key>;

  const cottention::ForwardArguments<bfloat16> arguments{
      .shape = {.batch = batch,
                .seq_q = seq,
                .seq_k = seq,
                .heads_q = heads,
                .heads_kv = heads_kv,
                .dim_qk = dim,
                .dim_v = dim},
      .q = {q.data()},  // [batch, seq, heads, dim]; for other layouts, strides beside the pointer
      .k = {k.data()},  // [batch, seq, heads_kv, dim]
      .v = {v.data()},  // [batch, seq, heads_kv, dim]
      .o = {o.data()},  // [batch, seq, heads, dim], written
      .scale_logit = scale_logit.data(),  // [heads_kv], a learned scalar for each head
  };
  const std::size_t bytes = cottention::cpu::workspace_bytes<Problem>(arguments);
  void* scratch = std::aligned_alloc(cottention::workspace_alignment, bytes);
  const cottention::CallStatus status = cottention::cpu::forward<Problem>(arguments, {scratch, bytes});
  std::free(scratch);
  if (!status) {
    std::fprintf(stderr, "%s\n", status.reason);  // names the argument, its value and the rule it breaks
    return 1;
  }

  RelativeError error;
  error.add(o, cottention::reference::forward<Problem>(arguments).o);
  constexpr double bound = 3e-3;  // of bf16, where rounding the output alone costs 1.7e-3
  std::printf("o [%d, %d, %d, %d] in bf16 with %zu bytes of scratch: relative RMS error %.1e, bound %.0e\n",
              int{batch}, int{seq}, int{heads}, int{dim}, bytes, error.value(), bound);
  return error.value() <= bound ? 0 : 1;
}
