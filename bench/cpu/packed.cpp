// forward_packed/<sequences>x<heads>x<tokens>x<dim>/<mask>/<element>/threads:<n> and
// forward_backward_packed/...: sequences of uneven length one after the other on a token axis, their lengths
// adding up to <tokens>.
#include "attention.hpp"

namespace bench {
namespace {

/// From about a third to five thirds of the mean length, the same in every run.
Buffer<std::int64_t> uneven_offsets(std::int64_t sequences, std::int64_t tokens) {
  Buffer<std::int64_t> offsets(sequences + 1);
  double total = 0.0;
  const auto length = [](std::int64_t i) {
    return 1.0 + 0.66 * random_value(seed_state, static_cast<std::uint64_t>(i));
  };
  for (std::int64_t i = 0; i < sequences; ++i) total += length(i);
  double sum = 0.0;
  for (std::int64_t i = 0; i < sequences; ++i) {
    offsets[i] = static_cast<std::int64_t>(sum / total * static_cast<double>(tokens));
    sum += length(i);
  }
  offsets[sequences] = tokens;
  return offsets;
}

/// The first sequence, the middle one and the last.
std::vector<Span> some_sequences(const Buffer<std::int64_t>& offsets) {
  std::vector<Span> spans;
  for (const std::int64_t i : some_of(offsets.size() - 1))
    spans.push_back({offsets[i], offsets[i + 1] - offsets[i]});
  return spans;
}

template <class P>
void packed(benchmark::State& state, const std::string& row, const NamedShape& named, Walks walks,
            int threads) {
  using T = typename P::element;
  const NamedShape axis{named.name, 1, named.heads, named.seq, named.dim};
  const Attention<T> data(axis);
  const Gradients<T> gradients(axis);
  const Buffer<std::int64_t> offsets = uneven_offsets(named.batch, named.seq);
  auto forward_arguments = data.forward_arguments();
  auto backward_arguments = gradients.backward_arguments(data);
  forward_arguments.shape.batch = backward_arguments.shape.batch = named.batch;
  forward_arguments.cu_seqlens_q = forward_arguments.cu_seqlens_k = offsets.data();
  backward_arguments.cu_seqlens_q = backward_arguments.cu_seqlens_k = offsets.data();
  const cottention::cpu::Execution execution{.threads = threads};
  const Scratch scratch(std::max(cottention::cpu::workspace_bytes<P>(forward_arguments, execution),
                                 cottention::cpu::workspace_bytes<P>(backward_arguments, execution)));
  for (auto _ : state) {
    cottention::CallStatus status =
        cottention::cpu::forward<P>(forward_arguments, scratch.workspace(), execution);
    if (!status.ok()) return state.SkipWithError(status.reason);
    if (walks == Walks::forward_and_backward)
      status = cottention::cpu::backward<P>(backward_arguments, scratch.workspace(), execution);
    if (!status.ok()) return state.SkipWithError(status.reason);
    benchmark::ClobberMemory();
  }
  set_counters(state, work<P>(walks, axis));
  set_error(state, row, [&] {
    const std::vector<Span> spans = some_sequences(offsets);
    return walks == Walks::forward ? output_error(data, spans, P::mask)
                                   : gradient_error(data, gradients, spans, P::mask);
  });
}

template <class T, cottention::Mask mask>
void register_kind() {
  using P = cottention::Problem<T, cottention::HeadDim{64, 64}, mask, cottention::Scale::by_key>;
  const NamedShape shape = spelled(64, 16, 16384, 64);
  for (const int threads : thread_counts()) {
    const std::string suffix = "_packed/" + shape.name + "/" + mask_name(mask) + "/" +
                               cottention::element_name<T> + threads_name(threads);
    const std::string alone = "forward" + suffix, both = "forward_backward" + suffix;
    add_row(alone, [=](benchmark::State& s) { packed<P>(s, alone, shape, Walks::forward, threads); });
    add_row(both,
            [=](benchmark::State& s) { packed<P>(s, both, shape, Walks::forward_and_backward, threads); });
  }
}

}  // namespace

void register_packed() {
  if (!wanted(Preset::standard)) return;
  register_kind<float, cottention::Mask::causal>();
  register_kind<float, cottention::Mask::bidirectional>();
  register_kind<cottention::bfloat16, cottention::Mask::causal>();
}

}  // namespace bench
