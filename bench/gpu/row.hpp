// The rows of the benchmark.
//
// A row is call/element/shape/variant, where the variant is what the library chooses ("default"), or a Tiling
// or a split of the caller's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include <cottention/problem.hpp>
#include <cottention/status.hpp>
#include <cottention/tiling.hpp>

#include "timing.hpp"

namespace bench {

/// dim_qk = dim_v = dim. For step, seq is the number of tokens.
struct Size {
  std::int64_t batch, heads, seq;
  int dim;
};

struct Conditions {
  Pace pace;
  std::int64_t cache_bytes = 0;   // of the device
  std::int64_t memory_bytes = 0;  // likewise
  bool emulated = false;          // small sizes, then
};

struct Result {
  Timing timing;
  int sets = 0;           // of buffers that calls take turns through
  bool complete = false;  // every element of the output was written with a number
};

struct Row {
  std::string name, variant;
  double bytes;  // that must move through device memory: docs/performance.md
  std::function<Result(const Conditions&)> measure;
};

inline constexpr const char* default_variant = "default";

/// As few sets of buffers, of `bytes` each, as keep all of a set out of the cache until its next turn.
inline int sets_of(const Conditions& conditions, double bytes) {
  const double wanted = 4.0 * static_cast<double>(conditions.cache_bytes) / bytes;
  const double room = 0.5 * static_cast<double>(conditions.memory_bytes) / bytes;
  return static_cast<int>(std::max(1.0, std::min(std::max(2.0, wanted), room)));
}

inline void require_ok(const cottention::Status& status) {
  if (!status) throw std::runtime_error(status.reason);
}

inline std::string in_words(const cottention::Tiling& t) {
  return "chunk" + std::to_string(t.chunk) + ".warps" + std::to_string(t.warps) + ".stages" +
         std::to_string(t.stages) + ".columns" + std::to_string(t.columns) + ".blocks" +
         std::to_string(t.blocks);
}

inline std::string in_words(const Size& s) {
  return std::to_string(s.batch) + "x" + std::to_string(s.heads) + "x" + std::to_string(s.seq) + "x" +
         std::to_string(s.dim);
}

void add_forward_bf16(std::vector<Row>& rows);
void add_forward_fp16(std::vector<Row>& rows);
void add_forward_fp32(std::vector<Row>& rows);
void add_forward_variants(std::vector<Row>& rows);
void add_backward_bf16(std::vector<Row>& rows);
void add_backward_fp16(std::vector<Row>& rows);
void add_backward_fp32(std::vector<Row>& rows);
void add_backward_variants(std::vector<Row>& rows);
void add_step(std::vector<Row>& rows);

}  // namespace bench
