// The rows of the benchmark.
//
// A row is call/element/shape/variant, where the variant is what the library chooses ("default"), or a Tiling
// or a split of the caller's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <cottention/arguments.hpp>
#include <cottention/problem.hpp>
#include <cottention/status.hpp>
#include <cottention/tiling.hpp>

#include "../flops.hpp"
#include "../preset.hpp"
#include "timing.hpp"

namespace bench {

/// dim_qk = dim_v = dim. For step, seq is the number of tokens; in a packed batch the length of its token
/// axis.
struct Size {
  std::int64_t batch, heads, seq;
  int dim;
  cottention::Shape shape() const {
    return {.batch = batch,
            .seq_q = seq,
            .seq_k = seq,
            .heads_q = heads,
            .heads_kv = heads,
            .dim_qk = dim,
            .dim_v = dim};
  }
};

struct Conditions {
  Pace pace;
  std::int64_t cache_bytes = 0;   // of the device
  std::int64_t memory_bytes = 0;  // likewise
  bool emulated = false;          // small sizes, then
};

/// Bytes of one call.
struct Memory {
  double inputs = 0;  // that the caller has before it; for a step its states too, which it updates in place
  double outputs = 0;
  double states = 0;     // final states that the call leaves
  double workspace = 0;  // as the library asks for it

  /// What a call takes beside its inputs.
  double taken() const { return outputs + states + workspace; }
  double total() const { return inputs + taken(); }
};

struct Result {
  Timing timing;
  int sets = 0;  // of buffers that calls take turns through
  Memory memory;
  double beside_buffers = 0;  // device memory that went while calls ran: code, graphs, and whatever else
  bool complete = false;      // every element of the output was written with a number
};

/// A call on sets of buffers, ready to be made.
struct Subject {
  Memory memory;
  int sets = 1;
  std::function<void(int, cudaStream_t)> call;  // on the i-th set
  std::function<bool()> complete;               // whether a call writes all of its output with numbers
};

struct Row {
  std::string name, variant;
  Work work;  // its bytes are those that must move through device memory: docs/performance.md
  std::function<Subject(const Conditions&)> make;
};

/// The rows of a preset. Presets overlap, so a row that is there already is not added again.
class Rows {
 public:
  explicit Rows(Preset preset) : preset_(preset) {}
  bool wants(Preset rows) const { return includes(preset_, rows); }
  void add(Row row) {
    const auto same = [&](const Row& other) {
      return other.name == row.name && other.variant == row.variant;
    };
    if (std::none_of(rows_.begin(), rows_.end(), same)) rows_.push_back(std::move(row));
  }
  std::vector<Row> take() && { return std::move(rows_); }

 private:
  Preset preset_;
  std::vector<Row> rows_;
};

inline constexpr const char* default_variant = "default";

/// As few sets of buffers as keep all that a call moves, `moved` bytes, out of the cache until its next turn,
/// in half of the memory at most, where one takes `total` bytes.
inline int sets_of(const Conditions& conditions, double moved, double total) {
  const double wanted = 4.0 * static_cast<double>(conditions.cache_bytes) / moved;
  const double room = 0.5 * static_cast<double>(conditions.memory_bytes) / total;
  return static_cast<int>(std::max(1.0, std::min(std::max(2.0, wanted), room)));
}

inline void require_ok(const cottention::CallStatus& status) {
  if (!status) throw std::runtime_error(status.reason);
}

/// `call(set, stream)` on sets of buffers that `make(seed)` returns. A set has memory(), poison() and
/// complete(). `moved`: bytes that a call moves.
template <class Make, class Call>
Subject subject_on_sets(const Conditions& conditions, double moved, const Make& make, const Call& call) {
  constexpr std::size_t seeds = 4;  // that a set draws its inputs from
  using Set = decltype(make(std::uint32_t{1}));
  const auto sets = std::make_shared<std::vector<Set>>();
  sets->push_back(make(1));
  Subject subject;
  subject.memory = sets->front().memory();
  subject.sets = sets_of(conditions, moved, subject.memory.total());
  while (static_cast<int>(sets->size()) < subject.sets)
    sets->push_back(make(static_cast<std::uint32_t>(seeds * sets->size() + 1)));
  subject.call = [sets, call](int i, cudaStream_t stream) {
    call((*sets)[static_cast<std::size_t>(i)], stream);
  };
  subject.complete = [sets, call] {
    sets->front().poison();
    call(sets->front(), nullptr);
    require_success(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    return sets->front().complete();
  };
  return subject;
}

inline std::string in_words(const cottention::Tiling& t) {
  return "chunk" + std::to_string(t.chunk) + ".warps" + std::to_string(t.warps) + ".stages" +
         std::to_string(t.stages) + ".columns" + std::to_string(t.columns) + ".blocks" +
         std::to_string(t.min_blocks_per_sm);
}

inline std::string in_words(const Size& s) {
  return std::to_string(s.batch) + "x" + std::to_string(s.heads) + "x" + std::to_string(s.seq) + "x" +
         std::to_string(s.dim);
}

/// "causal/bf16/8x16x2048x64": what follows the call in a row's name.
template <cottention::AnyProblem P>
std::string of_problem(const Size& s) {
  const std::string mask = P::mask == cottention::Mask::causal ? "causal/" : "bidirectional/";
  return mask + cottention::element_name<typename P::element> + "/" + in_words(s);
}

void add_bf16(Rows& rows);
void add_fp16(Rows& rows);
void add_fp32(Rows& rows);
void add_fp64(Rows& rows);
void add_wide_bf16(Rows& rows);
void add_wide_fp32(Rows& rows);
void add_forward_tilings(Rows& rows);
void add_step(Rows& rows);

}  // namespace bench
