// prefill_<piece>/<shape>/causal/<element>/threads:<n>: forward over pieces of <piece> tokens, each starting
// from the state that the one before has left.
#include "attention.hpp"

namespace bench {
namespace {

template <class P>
void prefill(benchmark::State& state, const std::string& row, const NamedShape& whole, std::int64_t piece,
             int threads) {
  using T = typename P::element;
  const Attention<T> data(whole);
  const NamedShape part{whole.name, whole.batch, whole.heads, piece, whole.dim};
  const Buffer<cottention::Accumulate<T>> h(whole.heads * whole.dim * whole.dim);
  const Buffer<std::int64_t> count(1);
  const auto arguments_of = [&](std::int64_t first) {
    const std::int64_t at = first * whole.heads * whole.dim;
    auto arguments = data.forward_arguments();
    arguments.shape = extents(part);
    arguments.q.data += at;
    arguments.k.data += at;
    arguments.v.data += at;
    arguments.o.data += at;
    if (first > 0) arguments.initial_state = {h.data(), count.data()};
    arguments.final_state = {h.data(), count.data()};
    return arguments;
  };
  const cottention::cpu::Execution execution{.threads = threads};
  const Scratch scratch(cottention::cpu::workspace_bytes<P>(arguments_of(piece), execution));
  for (auto _ : state) {
    for (std::int64_t first = 0; first < whole.seq; first += piece) {
      const cottention::CallStatus status =
          cottention::cpu::forward<P>(arguments_of(first), scratch.workspace(), execution);
      if (!status.ok()) return state.SkipWithError(status.reason);
    }
    benchmark::ClobberMemory();
  }
  if (!all_finite(data.o)) return state.SkipWithError("the output is not finite");
  set_counters(state, work<P>(Walks::forward, whole));
  data.set_witness(state);
  set_error(state, row, [&] { return output_error(data, first_and_last(whole), P::mask); });
}

template <class T>
void register_element(std::int64_t piece) {
  using P = cottention::Problem<T, cottention::HeadDim{64, 64}, cottention::Mask::causal,
                                cottention::Scale::by_key>;
  for (const NamedShape& shape : shapes)
    if (shape.name == "D")
      for (const int threads : thread_counts()) {
        const std::string row = "prefill_" + std::to_string(piece) + "/D/causal/" +
                                cottention::element_name<T> + threads_name(threads);
        add_row(row, [=](benchmark::State& s) { prefill<P>(s, row, shape, piece, threads); });
      }
}

}  // namespace

void register_prefill() {
  if (!wanted(Preset::standard)) return;
  for (const std::int64_t piece : {512, 4096}) {
    register_element<float>(piece);
    register_element<cottention::bfloat16>(piece);
  }
}

}  // namespace bench
