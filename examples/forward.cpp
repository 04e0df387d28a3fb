// The shortest complete program: causal cosine attention over a batch.
#include <cstdio>
#include <vector>

#include <cottention/owned_workspace.hpp>

int main() {
  using namespace cottention;
  constexpr std::int64_t batch = 2, seq = 500, heads = 8, dim = 64;
  std::vector<float> q(batch * seq * heads * dim, 1.0f), k = q, v = q, o(q.size());
  std::vector<float> m(heads, 0.5f);  // a learned number for each head

  using Attention = Problem<float, any_head_dim, Mask::causal, Scale::by_key>;
  const ForwardArguments<float> arguments{
      .shape = {.batch = batch,
                .seq_q = seq,
                .seq_k = seq,
                .heads_q = heads,
                .heads_kv = heads,
                .dim_qk = dim,
                .dim_v = dim},
      .q = {q.data(), bshd},  // [batch, seq, heads, dim]; bhsd: [batch, heads, seq, dim]
      .k = {k.data(), bshd},
      .v = {v.data(), bshd},
      .o = {o.data(), bshd},  // written
      .scale_logit = m.data(),
  };
  HostWorkspace workspace;  // scratch memory, grows as calls need
  const CallStatus status = cpu::forward<Attention>(arguments, workspace);
  if (!status) {
    std::fprintf(stderr, "%s\n", status.reason);  // names the argument, its value and the rule it breaks
    return 1;
  }
  std::printf("last output: %.3f\n", o.back());  // of equal rows: the sum over n = 1 .. seq of n^-sigmoid(m)
}
