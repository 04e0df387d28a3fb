// Which rows there are of calls on whole sequences, by preset.
#pragma once

#include <concepts>
#include <vector>

#include "backward.hpp"

namespace bench {

template <cottention::Element T, int dim>
using Causal = cottention::Problem<T, cottention::HeadDim{dim, dim}, cottention::Mask::causal,
                                   cottention::Scale::by_key>;
template <cottention::Element T, int dim>
using Bidirectional = cottention::Problem<T, cottention::HeadDim{dim, dim}, cottention::Mask::bidirectional,
                                          cottention::Scale::by_key>;

/// Sizes of one Problem: by default with the final state that forward leaves, and as a variant without.
template <cottention::AnyProblem P>
void add_gradients(Rows& rows, const std::vector<Size>& sizes) {
  for (const Size& s : sizes) {
    for (const Walks walks : {Walks::backward, Walks::forward_and_backward})
      add_backward<P>(rows, s, walks, default_variant);
    add_backward<P>(rows, s, Walks::backward, "without_final_h", FinalH::dropped);
  }
}

template <cottention::AnyProblem P>
void add_forwards(Rows& rows, const std::vector<Size>& sizes) {
  for (const Size& s : sizes) add_forward<P>(rows, s, default_variant);
}

/// Every call.
template <cottention::AnyProblem P>
void add_calls(Rows& rows, const std::vector<Size>& sizes) {
  add_forwards<P>(rows, sizes);
  add_gradients<P>(rows, sizes);
}

template <cottention::AnyProblem P>
void add_packed(Rows& rows, const Size& s) {
  add_forward<P>(rows, s, default_variant, {}, Batch::packed);
  add_backward<P>(rows, s, Walks::forward_and_backward, default_variant, FinalH::kept, {}, Batch::packed);
}

template <cottention::Element T>
void add_standard_rows(Rows& rows) {
  if (!rows.wants(Preset::standard)) return;
  add_forwards<Causal<T, 64>>(rows, {{8, 16, 2048, 64}, long_sequence, {8, 8, 1024, 64}});
  add_forwards<Causal<T, 128>>(rows, {{32, 16, 512, 128}, {4, 32, 8192, 128}});
  add_forwards<Bidirectional<T, 64>>(rows, {{8, 16, 2048, 64}, long_sequence});
  add_forwards<Bidirectional<T, 128>>(rows, {{4, 32, 8192, 128}});
  add_gradients<Causal<T, 64>>(rows, {{8, 16, 2048, 64}, long_sequence});
  add_gradients<Causal<T, 128>>(rows, {{32, 16, 512, 128}, {4, 32, 8192, 128}});
  add_gradients<Bidirectional<T, 64>>(rows, {{8, 16, 2048, 64}});
  if constexpr (!std::same_as<T, cottention::half>) {  // what else half could show, bfloat16 shows
    constexpr Size packed = {64, 16, 131072, 64};
    add_packed<Causal<T, 64>>(rows, packed);
    add_packed<Bidirectional<T, 64>>(rows, packed);
    for (const std::int64_t piece : {512, 4096, 32768})
      add_prefill<Causal<T, 64>>(rows, long_sequence, piece);
  }
}

/// Gradients with both masks are many kernels, so bfloat16 alone has them at every head dimension.
template <cottention::Element T, int dim>
void add_sweep_dim(Rows& rows) {
  const std::vector<Size> size = {{8, 16, 2048, dim}};
  add_calls<Causal<T, dim>>(rows, size);
  if constexpr (std::same_as<T, cottention::bfloat16>)
    add_calls<Bidirectional<T, dim>>(rows, size);
  else if constexpr (std::same_as<T, float>)
    add_forwards<Bidirectional<T, dim>>(rows, size);
}

/// Every element type over the head dimension; bfloat16 and fp32 over length, with 16 heads, and over batch x
/// heads from 1 to 4,096, which share 2^20 rows.
template <cottention::Element T>
void add_sweep_rows(Rows& rows) {
  if (!rows.wants(Preset::sweep)) return;
  add_sweep_dim<T, 32>(rows);
  add_sweep_dim<T, 64>(rows);
  add_sweep_dim<T, 128>(rows);
  add_sweep_dim<T, 256>(rows);
  if constexpr (std::same_as<T, cottention::bfloat16> || std::same_as<T, float>) {
    std::vector<Size> lengths;
    for (std::int64_t seq = 128; seq <= 1048576; seq *= 2) lengths.push_back({1, 16, seq, 64});
    add_calls<Causal<T, 64>>(rows, lengths);
    if constexpr (std::same_as<T, cottention::bfloat16>) add_calls<Bidirectional<T, 64>>(rows, lengths);
    add_calls<Causal<T, 64>>(rows, {{1, 1, 1048576, 64},
                                    {1, 4, 262144, 64},
                                    {1, 16, 65536, 64},
                                    {4, 16, 16384, 64},
                                    {16, 16, 4096, 64},
                                    {64, 16, 1024, 64},
                                    {256, 16, 256, 64}});
  }
}

/// 16 heads of `dim` and a batch of one, length 128 to 16,384: widths of 1,024 to 16,384 for dim 64 to 1,024.
template <cottention::Element T, int dim>
void add_authors_width(Rows& rows) {
  if (!rows.wants(Preset::authors)) return;
  std::vector<Size> sizes;
  for (std::int64_t seq = 128; seq <= 16384; seq *= 2) sizes.push_back({1, 16, seq, dim});
  add_calls<Causal<T, dim>>(rows, sizes);
}

template <cottention::Element T>
void add_authors_rows(Rows& rows) {
  if (!rows.wants(Preset::authors)) return;
  add_authors_width<T, 64>(rows);
  add_authors_width<T, 128>(rows);
  add_authors_width<T, 256>(rows);
  add_calls<Causal<T, 128>>(rows, {{32, 16, 512, 128}});
}

}  // namespace bench
