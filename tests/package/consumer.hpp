// What the two translation units of the consumer share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <cottention/cpu.hpp>

using Attention =
    cottention::Problem<float, cottention::any_head_dim, cottention::Mask::causal, cottention::Scale::by_key>;

inline constexpr std::int64_t tokens = 40, heads = 2, dim = 16;

struct Inputs {
  std::vector<float> q, k, v, scale_logit;  // q, k, v: (tokens, heads, dim)
};

/// Memory for a call: whole cache lines, so that it is aligned.
struct alignas(cottention::workspace_alignment) Line {
  std::byte bytes[cottention::workspace_alignment];
};

constexpr cottention::Shape shape_of(std::int64_t seq) {
  return {.batch = 1, .seq_q = seq, .seq_k = seq, .heads_q = heads, .heads_kv = heads, .dim_qk = dim, .dim_v = dim};
}

/// The whole sequence in one call.
bool forward_unit(const Inputs& in, float* o);

/// The same tokens one at a time. In another translation unit than forward_unit, as in a program of some size.
bool step_unit(const Inputs& in, float* o);
