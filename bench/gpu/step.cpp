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
      : size(s),
        q(random_buffer<T>(s.batch * s.seq * s.heads * s.dim, seed)),
        k(random_buffer<T>(s.batch * s.seq * s.heads * s.dim, seed + 1)),
        v(random_buffer<T>(s.batch * s.seq * s.heads * s.dim, seed + 2)),
        o(s.batch * s.seq * s.heads * s.dim),
        m(uploaded(std::vector<A>(static_cast<std::size_t>(s.heads), A{0.5}))),
        h(random_buffer<A>(s.batch * s.heads * s.dim * s.dim, seed + 3)),
        count(uploaded(std::vector<std::int64_t>(static_cast<std::size_t>(s.batch), 1000))) {}

  StepArguments<T> arguments() const {
    StepArguments<T> args;
    args.shape = size.shape();
    args.q = {q.data()};
    args.k = {k.data()};
    args.v = {v.data()};
    args.o = {o.data()};
    args.scale_logit = m.data();
    args.pool = {h.data(), count.data()};
    args.pool_slots = size.batch;
    return args;
  }
  Memory memory() const { return {.inputs = bytes_of(q, k, v, m, h, count), .outputs = bytes_of(o)}; }
  void poison() { o.poison(); }
  bool complete() const { return all_finite(o); }

  Size size;
  Buffer<T> q, k, v, o;
  Buffer<A> m, h;
  Buffer<std::int64_t> count;
};

template <AnyProblem P, Tiling... tiling>
Subject step_subject(const Conditions& conditions, Size s, double moved) {
  using Set = StepBuffers<typename P::element>;
  if (conditions.emulated) s = {2, 2, s.seq, s.dim};
  return subject_on_sets(
      conditions, moved, [&](std::uint32_t seed) { return Set(s, seed); },
      [](const Set& set, cudaStream_t stream) {
        require_ok(step<P, tiling...>(set.arguments(), {}, stream));
      });
}

/// The state read and written, and the rows of the tokens; a state takes d^2 multiply-adds from a token, and
/// gives an output for as many.
template <class T>
Work step_work(const Size& s) {
  const double tokens = static_cast<double>(s.batch * s.seq), heads = static_cast<double>(s.heads), d = s.dim;
  const double flop = 4 * tokens * heads * d * d;
  return {.useful_flop = flop,
          .chunk_free_flop = flop,
          .tokens = tokens,
          .bytes = step_bytes(s.batch, s.heads, s.dim, s.dim, sizeof(Accumulate<T>)) +
                   4 * tokens * heads * d * sizeof(T)};
}

template <AnyProblem P, Tiling... tiling>
void add_step_row(Rows& rows, const Size& s, const std::string& variant) {
  using T = typename P::element;
  const Work work = step_work<T>(s);
  rows.add(
      {std::string("step/") + element_name<T> + "/" + in_words(s), variant, work,
       [=](const Conditions& conditions) { return step_subject<P, tiling...>(conditions, s, work.bytes); }});
}

template <Element T, int dim>
using Decoding = Problem<T, HeadDim{dim, dim}, Mask::causal, Scale::by_key>;

/// The library's choice, and each of the tilings that it chooses from.
template <AnyProblem P>
void add_tilings(Rows& rows, const std::vector<Size>& sizes) {
  constexpr tuning::TilingTable tilings = tuning::step_tilings<P>;
  for (const Size& s : sizes) {
    add_step_row<P>(rows, s, default_variant);
    [&]<std::size_t... i>(std::index_sequence<i...>) {
      (add_step_row<P, tilings.list[i]>(rows, s, in_words(tilings.list[i])), ...);
    }
    (std::make_index_sequence<static_cast<std::size_t>(tilings.count)>());
  }
}

#ifndef BENCH_STANDARD_ALONE
/// The library's choice over the head dimension, for 256 sequences of 16 heads.
template <Element T>
void add_dims(Rows& rows) {
  add_step_row<Decoding<T, 32>>(rows, {256, 16, 1, 32}, default_variant);
  add_step_row<Decoding<T, 64>>(rows, {256, 16, 1, 64}, default_variant);
  add_step_row<Decoding<T, 128>>(rows, {256, 16, 1, 128}, default_variant);
  add_step_row<Decoding<T, 256>>(rows, {256, 16, 1, 256}, default_variant);
}
#endif

}  // namespace

void add_step(Rows& rows) {
  if (rows.wants(Preset::standard)) {
    add_tilings<Decoding<bfloat16, 64>>(rows, {{256, 16, 1, 64}});
    add_tilings<Decoding<bfloat16, 128>>(rows, {{256, 32, 1, 128}, {1, 32, 1, 128}});
    add_tilings<Decoding<float, 64>>(rows, {{256, 16, 1, 64}});
  }
#ifndef BENCH_STANDARD_ALONE
  if (rows.wants(Preset::sweep)) {
    add_dims<bfloat16>(rows);
    add_dims<half>(rows);
    add_dims<float>(rows);
    add_dims<double>(rows);
    for (const Size& s : {Size{1, 1, 1, 64}, Size{1, 4, 1, 64}, Size{1, 16, 1, 64}, Size{4, 16, 1, 64},
                          Size{16, 16, 1, 64}, Size{64, 16, 1, 64}, Size{256, 16, 1, 64}}) {
      add_step_row<Decoding<bfloat16, 64>>(rows, s, default_variant);
      add_step_row<Decoding<float, 64>>(rows, s, default_variant);
    }
  }
#endif
}

}  // namespace bench
