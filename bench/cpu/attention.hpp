// Tensors and rows of the forward and backward benchmarks.
#pragma once

#include <algorithm>
#include <iterator>
#include <string_view>
#include <type_traits>

#include <cottention/cpu/tuning.hpp>

#include "definition.hpp"
#include "support.hpp"

namespace bench {

/// A workspace of the size that was asked for, touched.
class Scratch {
 public:
  explicit Scratch(std::size_t bytes) : memory_(static_cast<std::int64_t>(bytes)) {
    std::fill_n(memory_.data(), bytes, static_cast<unsigned char>(0xff));
  }
  cottention::Workspace workspace() const {
    return {.data = memory_.data(), .bytes = static_cast<std::size_t>(memory_.size())};
  }

 private:
  Buffer<unsigned char> memory_;
};

/// Weighted sum over the rows at the first, middle and last position, and the sum of the magnitudes of its
/// terms: a few numbers by which bench/peers/pytorch_peers.py sees that both computed the same thing from the
/// same inputs.
template <class T>
void add_witness(benchmark::State& state, const char* name, const Buffer<T>& x, const NamedShape& shape) {
  double sum = 0.0;
  double magnitude = 0.0;
  for (std::int64_t b = 0; b < shape.batch; ++b)
    for (const std::int64_t position : {std::int64_t{0}, shape.seq / 2, shape.seq - 1})
      for (std::int64_t i = 0; i < shape.heads * shape.dim; ++i) {
        const double weight = 1.0 + static_cast<double>(i % shape.dim) / static_cast<double>(shape.dim);
        const double term =
            weight * cottention::to_double(x[(b * shape.seq + position) * shape.heads * shape.dim + i]);
        sum += term;
        magnitude += std::abs(term);
      }
  state.counters[std::string("witness_") + name] = sum;
  state.counters[std::string("magnitude_") + name] = magnitude;
}

template <class T>
struct Attention {
  using element = T;
  explicit Attention(const NamedShape& s)
      : shape(s),
        count(s.batch * s.seq * s.heads * s.dim),
        q(random_buffer<T>(count, seed_q)),
        k(random_buffer<T>(count, seed_k)),
        v(random_buffer<T>(count, seed_v)),
        o(output_buffer<T>(count)),
        m(scale_logits<cottention::Accumulate<T>>(s.heads)) {}

  cottention::ForwardArguments<T> forward_arguments() const {
    return {.shape = extents(shape),
            .q = {q.data()},
            .k = {k.data()},
            .v = {v.data()},
            .o = {o.data()},
            .scale_logit = m.data()};
  }
  void set_witness(benchmark::State& state) const { add_witness(state, "o", o, shape); }

  NamedShape shape;
  std::int64_t count;
  Buffer<T> q, k, v, o;
  Buffer<cottention::Accumulate<T>> m;
};

template <class T>
struct Gradients {
  explicit Gradients(const NamedShape& s)
      : shape(s),
        count(s.batch * s.seq * s.heads * s.dim),
        dout(random_buffer<T>(count, seed_dout)),
        dq(output_buffer<T>(count)),
        dk(output_buffer<T>(count)),
        dv(output_buffer<T>(count)),
        dscale_logit(output_buffer<cottention::Accumulate<T>>(s.heads)) {}

  cottention::BackwardArguments<T> backward_arguments(const Attention<T>& data) const {
    return {.shape = extents(shape),
            .q = {data.q.data()},
            .k = {data.k.data()},
            .v = {data.v.data()},
            .dout = {dout.data()},
            .dq = {dq.data()},
            .dk = {dk.data()},
            .dv = {dv.data()},
            .scale_logit = data.m.data(),
            .dscale_logit = dscale_logit.data()};
  }
  void set_witness(benchmark::State& state) const {
    add_witness(state, "dq", dq, shape);
    add_witness(state, "dk", dk, shape);
    add_witness(state, "dv", dv, shape);
  }

  NamedShape shape;
  std::int64_t count;
  Buffer<T> dout, dq, dk, dv;
  Buffer<cottention::Accumulate<T>> dscale_logit;
};

/// The chunk that the library takes for this problem when it is not told; 0 where there are no chunks.
template <class P>
inline constexpr int counted_chunk =
    P::mask == cottention::Mask::causal ? cottention::cpu::tuned_tiling<P>.chunk : 0;

/// How the tensors of a row lie: [batch, length, heads, dim] or [batch, heads, length, dim].
enum class Axes { bshd, bhsd };

/// Whether there are rows of a shape with either layout: the named ones and many short sequences, causal.
template <class P>
bool in_both_layouts(const NamedShape& shape) {
  const auto named = [&](const NamedShape& s) { return s.name == shape.name; };
  return P::mask == cottention::Mask::causal &&
         (std::any_of(std::begin(shapes), std::end(shapes), named) || (shape.seq == 32 && shape.batch == 64));
}

template <class P>
Work work(Walks walks, const NamedShape& s) {
  return count_work(walks, s.batch, s.heads, s.seq, s.dim, s.dim, counted_chunk<P>,
                    sizeof(typename P::element));
}

/// Calls row(problem, shape, "<shape>/<mask>/<element>/threads:<n>", n) for every thread count.
template <class T, int dim, cottention::Mask mask, class Row>
void add_rows(const NamedShape& shape, Row row) {
  using P = cottention::Problem<T, cottention::HeadDim{dim, dim}, mask, cottention::Scale::by_key>;
  for (const int threads : thread_counts())
    row(P{}, shape,
        shape.name + "/" + mask_name(mask) + "/" + cottention::element_name<T> + threads_name(threads),
        threads);
}

/// Every shape in fp32 and bf16, causal and bidirectional; C in every element; the long single head in fp32,
/// causal.
template <class Row>
void add_standard_rows(Row row) {
  using enum cottention::Mask;
  for (const NamedShape& shape : shapes) {
    const auto add = [&]<int dim>(std::integral_constant<int, dim>) {
      add_rows<float, dim, causal>(shape, row);
      add_rows<cottention::bfloat16, dim, causal>(shape, row);
      add_rows<float, dim, bidirectional>(shape, row);
      add_rows<cottention::bfloat16, dim, bidirectional>(shape, row);
    };
    if (shape.dim == 64) add(std::integral_constant<int, 64>{});
    if (shape.dim == 128) add(std::integral_constant<int, 128>{});
    if (shape.name == "C") {
      add_rows<cottention::half, 64, causal>(shape, row);
      add_rows<double, 64, causal>(shape, row);
    }
  }
  add_rows<float, 64, causal>(long_shape, row);
}

/// Sequences that are short for their head dimension, where forms without a state have the least to do; and
/// many short sequences.
template <class Row>
void add_short_rows(Row row) {
  using enum cottention::Mask;
  const auto add = [&]<int dim>(std::integral_constant<int, dim>, std::int64_t batch, std::int64_t seq) {
    const NamedShape shape = spelled(batch, 16, seq, dim);
    add_rows<float, dim, causal>(shape, row);
    add_rows<cottention::bfloat16, dim, causal>(shape, row);
    add_rows<float, dim, bidirectional>(shape, row);
    add_rows<cottention::bfloat16, dim, bidirectional>(shape, row);
  };
  add(std::integral_constant<int, 1024>{}, 1, 128);
  add(std::integral_constant<int, 1024>{}, 1, 1024);
  add(std::integral_constant<int, 256>{}, 4, 128);
  add(std::integral_constant<int, 128>{}, 32, 512);
  add(std::integral_constant<int, 64>{}, 64, 32);
}

/// Length from 128 to 131,072 with 16 heads, and to 1,048,576 with one; dim from 32 to 256 in every element;
/// from one head to 4,096, sharing 65,536 tokens.
template <class Row>
void add_sweep_rows(Row row) {
  using enum cottention::Mask;
  for (std::int64_t seq = 128; seq <= 131072; seq *= 2) {
    add_rows<float, 64, causal>(spelled(1, 16, seq, 64), row);
    add_rows<cottention::bfloat16, 64, causal>(spelled(1, 16, seq, 64), row);
  }
  add_rows<float, 64, causal>(spelled(1, 1, 1048576, 64), row);
  const auto add_dim = [&]<int dim>(std::integral_constant<int, dim>) {
    const NamedShape shape = spelled(2, 8, 2048, dim);
    add_rows<float, dim, causal>(shape, row);
    add_rows<float, dim, bidirectional>(shape, row);
    add_rows<double, dim, causal>(shape, row);
    add_rows<cottention::half, dim, causal>(shape, row);
    add_rows<cottention::bfloat16, dim, causal>(shape, row);
  };
  add_dim(std::integral_constant<int, 32>{});
  add_dim(std::integral_constant<int, 64>{});
  add_dim(std::integral_constant<int, 128>{});
  add_dim(std::integral_constant<int, 256>{});
  for (const NamedShape& shape :
       {spelled(1, 1, 65536, 64), spelled(1, 4, 16384, 64), spelled(4, 4, 4096, 64), spelled(16, 4, 1024, 64),
        spelled(16, 16, 256, 64), spelled(256, 16, 16, 64)})
    add_rows<float, 64, causal>(shape, row);
}

/// 16 heads and a batch of one: length 128 to 16,384, width 1,024 to 16,384; and a batch of 32 of 512 tokens.
template <class Row>
void add_authors_rows(Row row) {
  using enum cottention::Mask;
  const auto add_width = [&]<int dim>(std::integral_constant<int, dim>) {
    for (std::int64_t seq = 128; seq <= 16384; seq *= 2) {
      add_rows<float, dim, causal>(spelled(1, 16, seq, dim), row);
      add_rows<cottention::bfloat16, dim, causal>(spelled(1, 16, seq, dim), row);
    }
  };
  add_width(std::integral_constant<int, 64>{});
  add_width(std::integral_constant<int, 128>{});
  add_width(std::integral_constant<int, 256>{});
  add_width(std::integral_constant<int, 512>{});
  add_width(std::integral_constant<int, 1024>{});
  add_rows<float, 128, causal>(spelled(32, 16, 512, 128), row);
  add_rows<cottention::bfloat16, 128, causal>(spelled(32, 16, 512, 128), row);
}

template <class Row>
void for_each_attention_row(Row row) {
  if (wanted(Preset::standard)) {
    add_standard_rows(row);
    add_short_rows(row);
  }
  if (wanted(Preset::sweep)) add_sweep_rows(row);
  if (wanted(Preset::authors)) add_authors_rows(row);
}

}  // namespace bench
