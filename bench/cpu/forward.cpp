// forward/<shape>/<mask>/<element>/threads:<n>, and forward_bhsd/... with tensors of [batch, heads, length,
// dim]
#include "attention.hpp"

namespace bench {
namespace {

template <class P>
void forward(benchmark::State& state, const std::string& row, const NamedShape& shape, int threads,
             Axes axes) {
  const Attention<typename P::element> data(shape);
  auto arguments = data.forward_arguments();
  if (axes == Axes::bhsd)
    arguments.q.strides = arguments.k.strides = arguments.v.strides = arguments.o.strides = cottention::bhsd;
  const cottention::cpu::Execution execution{.threads = threads};
  const Scratch scratch(cottention::cpu::workspace_bytes<P>(arguments, execution));
  for (auto _ : state) {
    const cottention::CallStatus status =
        cottention::cpu::forward<P>(arguments, scratch.workspace(), execution);
    if (!status.ok()) return state.SkipWithError(status.reason);
    benchmark::ClobberMemory();
  }
  if (!all_finite(data.o)) return state.SkipWithError("the output is not finite");
  set_counters(state, work<P>(Walks::forward, shape));
  if (axes == Axes::bhsd) return;  // the peers' inputs lie otherwise, and so do the rows that are compared
  data.set_witness(state);
  set_error(state, row, [&] { return output_error(data, first_and_last(shape), P::mask); });
}

}  // namespace

void register_forward() {
  for_each_attention_row([]<class P>(P, const NamedShape& shape, const std::string& suffix, int threads) {
    const std::string row = "forward/" + suffix;
    add_row(row, [=](benchmark::State& s) { forward<P>(s, row, shape, threads, Axes::bshd); });
    if (in_both_layouts<P>(shape))
      add_row("forward_bhsd/" + suffix,
              [=](benchmark::State& s) { forward<P>(s, row, shape, threads, Axes::bhsd); });
  });
}

}  // namespace bench
