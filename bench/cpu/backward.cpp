// backward/<shape>/<mask>/<element>/threads:<n>           all gradients from q, k, v, m and dL/do
// forward_backward/<shape>/<mask>/<element>/threads:<n>   a forward call, then a backward call
// forward_backward_bhsd/...                               with tensors of [batch, heads, length, dim]
#include "attention.hpp"

namespace bench {
namespace {

enum class Calls { backward, forward_and_backward };

template <class P>
void backward(benchmark::State& state, const std::string& row, const NamedShape& shape, int threads,
              Calls calls, Axes axes = Axes::bshd) {
  const Attention<typename P::element> data(shape);
  const Gradients<typename P::element> gradients(shape);
  auto forward_arguments = data.forward_arguments();
  auto arguments = gradients.backward_arguments(data);
  if (axes == Axes::bhsd) {
    forward_arguments.q.strides = forward_arguments.k.strides = forward_arguments.v.strides =
        forward_arguments.o.strides = cottention::bhsd;
    arguments.q.strides = arguments.k.strides = arguments.v.strides = arguments.dout.strides =
        arguments.dq.strides = arguments.dk.strides = arguments.dv.strides = cottention::bhsd;
  }
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
  if (axes == Axes::bhsd) return;  // the rows that are compared lie otherwise
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
    const std::string heads_first = "forward_backward_bhsd/" + suffix;
    if (in_both_layouts<P>(shape))
      add_row(heads_first, [=](benchmark::State& s) {
        backward<P>(s, heads_first, shape, threads, Calls::forward_and_backward, Axes::bhsd);
      });
  });
}

}  // namespace bench
