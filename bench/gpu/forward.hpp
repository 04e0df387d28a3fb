// Rows of `forward`.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <cottention/forward.cuh>

#include "buffer.hpp"
#include "row.hpp"

namespace bench {

template <cottention::Element T>
struct ForwardBuffers {
  explicit ForwardBuffers(const Size& s, std::uint32_t seed)
      : q(random_buffer<T>(s.batch * s.seq * s.heads * s.dim, seed)),
        k(random_buffer<T>(s.batch * s.seq * s.heads * s.dim, seed + 1)),
        v(random_buffer<T>(s.batch * s.seq * s.heads * s.dim, seed + 2)),
        o(s.batch * s.seq * s.heads * s.dim),
        m(uploaded(std::vector<float>(static_cast<std::size_t>(s.heads), 0.5f))) {}

  cottention::ForwardArguments<T> arguments(const Size& s) const {
    cottention::ForwardArguments<T> args;
    args.shape = {s.batch, s.seq, s.seq, s.heads, s.heads, s.dim, s.dim};
    args.q = {q.data()};
    args.k = {k.data()};
    args.v = {v.data()};
    args.o = {o.data()};
    args.scale_logit = m.data();
    return args;
  }

  Buffer<T> q, k, v, o;
  Buffer<float> m;
  Buffer<unsigned char> scratch;
};

/// What is called: with the library's tiling or with the caller's.
template <cottention::AnyProblem P, cottention::Tiling... tiling>
Result measure_forward(const Conditions& conditions, Size s, double bytes, cottention::Split split) {
  using T = typename P::element;
  if (conditions.emulated) s = {1, 2, std::min<std::int64_t>(s.seq, 100), s.dim};
  Result result;
  result.sets = sets_of(conditions, bytes);
  std::vector<ForwardBuffers<T>> buffers;
  std::vector<cottention::Workspace> workspaces;
  for (int i = 0; i < result.sets; ++i) {
    ForwardBuffers<T>& set = buffers.emplace_back(s, static_cast<std::uint32_t>(3 * i + 1));
    const std::size_t scratch = cottention::workspace_bytes<P, tiling...>(set.arguments(s), split);
    set.scratch = Buffer<unsigned char>(static_cast<std::int64_t>(scratch));
    workspaces.push_back({set.scratch.data(), scratch});
  }
  const auto call = [&](int i, cudaStream_t stream) {
    const auto at = static_cast<std::size_t>(i);
    require_ok(cottention::forward<P, tiling...>(buffers[at].arguments(s), workspaces[at], stream, split));
  };
  result.timing = time_calls(conditions.pace, result.sets, call);
  buffers[0].o.poison();
  call(0, nullptr);
  require_success(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  result.complete = all_finite(buffers[0].o);
  return result;
}

/// q, k and v read once, o written once.
template <class T>
double forward_bytes(const Size& s) {
  return 4.0 * static_cast<double>(s.batch * s.heads * s.seq) * s.dim * sizeof(T);
}

template <cottention::AnyProblem P, cottention::Tiling... tiling>
void add_forward(std::vector<Row>& rows, const Size& s, const std::string& variant,
                 cottention::Split split = {}) {
  using T = typename P::element;
  const std::string mask = P::mask == cottention::Mask::causal ? "causal" : "bidirectional";
  const double bytes = forward_bytes<T>(s);
  rows.push_back({"forward_" + mask + "/" + cottention::element_name<T> + "/" + in_words(s), variant, bytes,
                  [=](const Conditions& conditions) {
                    return measure_forward<P, tiling...>(conditions, s, bytes, split);
                  }});
}

inline constexpr Size long_sequence = {1, 16, 131072, 64};

/// The rows that every element type has.
template <cottention::Element T>
void add_forward_rows(std::vector<Row>& rows) {
  using namespace cottention;
  using Causal64 = Problem<T, HeadDim{64, 64}, Mask::causal, Scale::by_key>;
  using Causal128 = Problem<T, HeadDim{128, 128}, Mask::causal, Scale::by_key>;
  using Bidirectional64 = Problem<T, HeadDim{64, 64}, Mask::bidirectional, Scale::by_key>;
  using Bidirectional128 = Problem<T, HeadDim{128, 128}, Mask::bidirectional, Scale::by_key>;
  add_forward<Causal64>(rows, {8, 16, 2048, 64}, default_variant);
  add_forward<Causal64>(rows, long_sequence, default_variant);
  add_forward<Causal128>(rows, {32, 16, 512, 128}, default_variant);
  add_forward<Causal128>(rows, {4, 32, 8192, 128}, default_variant);
  add_forward<Causal64>(rows, {8, 8, 1024, 64}, default_variant);
  add_forward<Bidirectional64>(rows, {8, 16, 2048, 64}, default_variant);
  add_forward<Bidirectional64>(rows, long_sequence, default_variant);
  add_forward<Bidirectional128>(rows, {4, 32, 8192, 128}, default_variant);
}

}  // namespace bench
