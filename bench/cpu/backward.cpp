// backward/<shape>/<mask>/<element>/threads:<n>           all gradients from q, k, v, m and dL/do
// forward_backward/<shape>/<mask>/<element>/threads:<n>   a forward call, then a backward call
#include "attention.hpp"

namespace bench {
namespace {

enum class Calls { backward, forward_and_backward };

template <class P>
void backward(benchmark::State& state, const std::string& row, const NamedShape& shape, int threads,
              Calls calls) {
  const Attention<typename P::element> data(shape);
  const Gradients<typename P::element> gradients(shape);
  const auto forward_arguments = data.forward_arguments();
  const auto arguments = gradients.backward_arguments(data);
  const cottention::cpu::Execution execution{.threads = threads};
  const Scratch scratch(std::max(cottention::cpu::workspace_bytes<P>(forward_arguments, execution),
                                 cottention::cpu::workspace_bytes<P>(arguments, execution)));
  for (auto _ : state) {
    cottention::CallStatus status;
    if (calls == Calls::forward_and_backward) {
      status = cottention::cpu::forward<P>(forward_arguments, scratch.workspace(), execution);
      if (!status.ok()) return state.SkipWithError(status.reason);
      benchmark::ClobberMemory();
    }
    status = cottention::cpu::backward<P>(arguments, scratch.workspace(), execution);
    if (!status.ok()) return state.SkipWithError(status.reason);
    benchmark::ClobberMemory();
  }
  if (!all_finite(gradients.dq) || !all_finite(gradients.dk) || !all_finite(gradients.dv) ||
      !all_finite(gradients.dscale_logit))
    return state.SkipWithError("a gradient is not finite");
  set_counters(state,
               work<P>(calls == Calls::backward ? Walks::backward : Walks::forward_and_backward, shape));
  gradients.set_witness(state);
  set_error(state, row, [&] { return gradient_error(data, gradients, first_and_last(shape), P::mask); });
}

}  // namespace

void register_backward() {
  for_each_attention_row([]<class P>(P, const NamedShape& shape, const std::string& suffix, int threads) {
    const std::string alone = "backward/" + suffix, both = "forward_backward/" + suffix;
    add_row(alone, [=](benchmark::State& s) { backward<P>(s, alone, shape, threads, Calls::backward); });
    add_row(both,
            [=](benchmark::State& s) { backward<P>(s, both, shape, threads, Calls::forward_and_backward); });
  });
}

}  // namespace bench
