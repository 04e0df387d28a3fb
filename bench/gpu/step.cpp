// Rows of `step`: one token for each of many sequences.
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <cottention/step.cuh>

#include "buffer.hpp"
#include "row.hpp"

namespace bench {
namespace {

using namespace cottention;

template <Element T>
struct StepBuffers {
  using A = Accumulate<T>;

  StepBuffers(const Size& s, std::uint32_t seed)
      : q(random_buffer<T>(s.batch * s.seq * s.heads * s.dim, seed)),
        k(random_buffer<T>(s.batch * s.seq * s.heads * s.dim, seed + 1)),
        v(random_buffer<T>(s.batch * s.seq * s.heads * s.dim, seed + 2)),
        o(s.batch * s.seq * s.heads * s.dim),
        m(uploaded(std::vector<float>(static_cast<std::size_t>(s.heads), 0.5f))),
        h(random_buffer<A>(s.batch * s.heads * s.dim * s.dim, seed + 3)),
        count(uploaded(std::vector<std::int64_t>(static_cast<std::size_t>(s.batch), 1000))) {}

  StepArguments<T> arguments(const Size& s) const {
    StepArguments<T> args;
    args.shape = {s.batch, s.seq, s.seq, s.heads, s.heads, s.dim, s.dim};
    args.q = {q.data()};
    args.k = {k.data()};
    args.v = {v.data()};
    args.o = {o.data()};
    args.scale_logit = m.data();
    args.pool = {h.data(), count.data()};
    args.slots = s.batch;
    return args;
  }

  Buffer<T> q, k, v, o;
  Buffer<float> m;
  Buffer<A> h;
  Buffer<std::int64_t> count;
};

template <AnyProblem P, Tiling... tiling>
Result measure_step(const Conditions& conditions, Size s, double bytes) {
  using T = typename P::element;
  if (conditions.emulated) s = {2, 2, s.seq, s.dim};
  Result result;
  result.sets = sets_of(conditions, bytes);
  std::vector<StepBuffers<T>> buffers;
  for (int i = 0; i < result.sets; ++i) buffers.emplace_back(s, static_cast<std::uint32_t>(4 * i + 1));
  const auto call = [&](int i, cudaStream_t stream) {
    require_ok(step<P, tiling...>(buffers[static_cast<std::size_t>(i)].arguments(s), {}, stream));
  };
  result.timing = time_calls(conditions.pace, result.sets, call);
  buffers[0].o.poison();
  call(0, nullptr);
  require_success(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  result.complete = all_finite(buffers[0].o);
  return result;
}

/// The state read and written, and the rows of the tokens.
template <class T>
double step_bytes(const Size& s) {
  const double units = static_cast<double>(s.batch * s.heads), d = s.dim;
  return units * (2 * d * d * sizeof(Accumulate<T>) + 4.0 * static_cast<double>(s.seq) * d * sizeof(T));
}

template <AnyProblem P, Tiling... tiling>
void add_step_row(std::vector<Row>& rows, const Size& s, const std::string& variant) {
  using T = typename P::element;
  const double bytes = step_bytes<T>(s);
  rows.push_back(
      {std::string("step/") + element_name<T> + "/" + in_words(s), variant, bytes,
       [=](const Conditions& conditions) { return measure_step<P, tiling...>(conditions, s, bytes); }});
}

/// The library's choice, and each of the tilings that it chooses from.
template <AnyProblem P>
void add_sizes(std::vector<Row>& rows, const std::vector<Size>& sizes) {
  constexpr tuning::StepTilings tilings = tuning::step_tilings<P>;
  for (const Size& s : sizes) {
    add_step_row<P>(rows, s, default_variant);
    [&]<std::size_t... i>(std::index_sequence<i...>) {
      (add_step_row<P, tilings.list[i]>(rows, s, in_words(tilings.list[i])), ...);
    }
    (std::make_index_sequence<static_cast<std::size_t>(tilings.count)>());
  }
}

}  // namespace

void add_step(std::vector<Row>& rows) {
  add_sizes<Problem<bfloat16, HeadDim{64, 64}, Mask::causal, Scale::by_key>>(rows, {{256, 16, 1, 64}});
  add_sizes<Problem<bfloat16, HeadDim{128, 128}, Mask::causal, Scale::by_key>>(
      rows, {{256, 32, 1, 128}, {1, 32, 1, 128}});
  add_sizes<Problem<float, HeadDim{64, 64}, Mask::causal, Scale::by_key>>(rows, {{256, 16, 1, 64}});
}

}  // namespace bench
