// forward/<shape>/<mask>/<element>/threads:<n>
#include "attention.hpp"

namespace bench {
namespace {

template <class P>
void forward(benchmark::State& state, const NamedShape& shape, int threads) {
  const Attention<typename P::element> data(shape);
  const auto arguments = data.forward_arguments();
  const cottention::cpu::Execution execution{.threads = threads};
  const Scratch scratch(cottention::cpu::workspace_bytes<P>(arguments, execution));
  for (auto _ : state) {
    const cottention::Status status = cottention::cpu::forward<P>(arguments, scratch.workspace(), execution);
    if (!status.ok()) return state.SkipWithError(status.reason);
    benchmark::ClobberMemory();
  }
  if (!all_finite(data.o)) return state.SkipWithError("the output is not finite");
  set_counters(state, work<P>(Walks::forward, shape));
  data.set_witness(state);
}

}  // namespace

void register_forward() {
  for_each_attention_row([]<class P>(P, const NamedShape& shape, const std::string& suffix, int threads) {
    add_row("forward/" + suffix, [&shape, threads](benchmark::State& s) { forward<P>(s, shape, threads); });
  });
}

}  // namespace bench
