// Rows of `forward`: whole sequences, packed batches, and a sequence in pieces.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include <cottention/forward.cuh>

#include "buffer.hpp"
#include "row.hpp"

namespace bench {

/// Packed: sequences of uneven length one after the other on one token axis.
enum class Batch { even, packed };

/// Inputs and output of one call, and room for a state.
template <cottention::Element T>
struct ForwardBuffers {
  using A = cottention::Accumulate<T>;

  ForwardBuffers(const Size& s, Batch batch, std::uint32_t seed)
      : size(s),
        count((batch == Batch::packed ? 1 : s.batch) * s.seq * s.heads * s.dim),
        q(random_buffer<T>(count, seed)),
        k(random_buffer<T>(count, seed + 1)),
        v(random_buffer<T>(count, seed + 2)),
        o(count),
        m(uploaded(std::vector<A>(static_cast<std::size_t>(s.heads), A{0.5}))) {
    if (batch == Batch::packed) offsets = uploaded(uneven_offsets(s.batch, s.seq));
  }

  cottention::Shape shape() const { return size.shape(); }
  cottention::ForwardArguments<T> arguments() const {
    cottention::ForwardArguments<T> args;
    args.shape = shape();
    args.q = {q.data()};
    args.k = {k.data()};
    args.v = {v.data()};
    args.o = {o.data()};
    args.scale_logit = m.data();
    args.cu_seqlens_q = args.cu_seqlens_k = offsets.data();
    return args;
  }
  /// Room for a final state of each sequence, left by a call that is given it.
  void hold_state() {
    h = Buffer<A>(size.batch * size.heads * size.dim * size.dim);
    tokens = Buffer<std::int64_t>(size.batch);
  }
  cottention::Workspace workspace() const { return {scratch.data(), scratch.bytes()}; }

  Memory memory() const {
    return {.inputs = bytes_of(q, k, v, m, offsets),
            .outputs = bytes_of(o),
            .states = bytes_of(h, tokens),
            .workspace = bytes_of(scratch)};
  }
  void poison() { o.poison(); }
  bool complete() const { return all_finite(o); }

  Size size;
  std::int64_t count;
  Buffer<T> q, k, v, o;
  Buffer<A> m, h;
  Buffer<std::int64_t> tokens, offsets;
  Buffer<unsigned char> scratch;
};

/// As small as the emulator likes it, which takes longest with wide rows.
inline Size emulated(const Size& s, Batch batch, std::int64_t heads, std::int64_t longest) {
  const std::int64_t seq = std::min(s.seq, s.dim > 256 ? longest / 4 : longest);
  return batch == Batch::packed ? Size{3, 1, seq, s.dim} : Size{1, heads, seq, s.dim};
}

/// With the library's tiling or with the caller's.
template <cottention::AnyProblem P, cottention::Tiling... tiling>
Result measure_forward(const Conditions& conditions, Size s, Batch batch, const Work& work,
                       cottention::Split split) {
  using Set = ForwardBuffers<typename P::element>;
  if (conditions.emulated) s = emulated(s, batch, 2, 40);
  return measure_on_sets(
      conditions, work.bytes,
      [&](std::uint32_t seed) {
        Set set(s, batch, seed);
        set.scratch = scratch_of(cottention::workspace_bytes<P, tiling...>(set.arguments(), split));
        return set;
      },
      [&](const Set& set, cudaStream_t stream) {
        require_ok(cottention::forward<P, tiling...>(set.arguments(), set.workspace(), stream, split));
      });
}

/// `piece` tokens at a time, each piece from the state that the one before has left.
template <cottention::AnyProblem P>
Result measure_prefill(const Conditions& conditions, Size s, std::int64_t piece, const Work& work) {
  using Set = ForwardBuffers<typename P::element>;
  if (conditions.emulated) {
    s = emulated(s, Batch::even, 2, 40);
    piece = 30;
  }
  const auto arguments_of = [&](const Set& set, std::int64_t first) {
    auto args = set.arguments();
    const std::int64_t at = first * s.heads * s.dim;
    args.shape.seq_q = args.shape.seq_k = std::min(piece, s.seq - first);
    args.q.data += at;
    args.k.data += at;
    args.v.data += at;
    args.o.data += at;
    if (first > 0) args.initial_state = {set.h.data(), set.tokens.data()};
    args.final_state = {set.h.data(), set.tokens.data()};
    return args;
  };
  return measure_on_sets(
      conditions, work.bytes,
      [&](std::uint32_t seed) {
        Set set(s, Batch::even, seed);
        set.hold_state();
        set.scratch = scratch_of(cottention::workspace_bytes<P>(arguments_of(set, 0)));
        return set;
      },
      [&](const Set& set, cudaStream_t stream) {
        for (std::int64_t first = 0; first < s.seq; first += piece)
          require_ok(cottention::forward<P>(arguments_of(set, first), set.workspace(), stream));
      });
}

/// Of one call at a size. Operations are counted without chunks, whose length is the tiling's.
template <cottention::AnyProblem P>
Work work_of(Walks walks, const Size& s, Batch batch) {
  constexpr int chunk_free = 0;
  return count_work(walks, batch == Batch::packed ? 1 : s.batch, s.heads, s.seq, s.dim, s.dim, chunk_free,
                    sizeof(typename P::element));
}

template <cottention::AnyProblem P, cottention::Tiling... tiling>
void add_forward(Rows& rows, const Size& s, const std::string& variant, cottention::Split split = {},
                 Batch batch = Batch::even) {
  const Work work = work_of<P>(Walks::forward, s, batch);
  rows.add({(batch == Batch::packed ? "forward_packed_" : "forward_") + of_problem<P>(s), variant, work,
            [=](const Conditions& conditions) {
              return measure_forward<P, tiling...>(conditions, s, batch, work, split);
            }});
}

template <cottention::AnyProblem P>
void add_prefill(Rows& rows, const Size& s, std::int64_t piece) {
  const Work work = work_of<P>(Walks::forward, s, Batch::even);
  rows.add({"prefill_" + std::to_string(piece) + "_" + of_problem<P>(s), default_variant, work,
            [=](const Conditions& conditions) { return measure_prefill<P>(conditions, s, piece, work); }});
}

inline constexpr Size long_sequence = {1, 16, 131072, 64};

}  // namespace bench
