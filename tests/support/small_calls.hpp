// The calls of one small problem for the CPU, and memory for workspaces.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include <cottention/arguments.hpp>

#include "support/extents.hpp"

namespace support {

/// A workspace of the bytes asked for, full of NaN.
class Scratch {
 public:
  explicit Scratch(std::size_t bytes)
      : memory_(bytes + cottention::workspace_alignment, std::byte{0xff}), bytes_(bytes) {}
  operator cottention::Workspace() {
    void* aligned = memory_.data();
    std::size_t left = memory_.size();
    std::align(cottention::workspace_alignment, bytes_, aligned, left);
    return {aligned, bytes_};
  }

 private:
  std::vector<std::byte> memory_;
  std::size_t bytes_;
};

/// Forward, backward and step of one small problem, whose outputs are `o`, `dq` and `stepped`.
struct SmallCalls {
  static constexpr std::int64_t seq = 40, dim = 8;
  std::vector<float> x = std::vector<float>(seq * dim), o = x, dq = x, stepped = std::vector<float>(dim),
                     h = std::vector<float>(dim * dim);
  float m = 0.5f;
  std::int64_t count = 0;

  SmallCalls() {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i * i));
  }
  cottention::Shape shape(std::int64_t tokens) const { return Extents{1, tokens, tokens, 1, 1, dim, dim}; }
  cottention::ForwardArguments<float> forward() {
    return {.shape = shape(seq),
            .q = {x.data()},
            .k = {x.data()},
            .v = {x.data()},
            .o = {o.data()},
            .scale_logit = &m};
  }
  cottention::BackwardArguments<float> backward() {
    return {.shape = shape(seq),
            .q = {x.data()},
            .k = {x.data()},
            .v = {x.data()},
            .dout = {x.data()},
            .dq = {dq.data()},
            .scale_logit = &m};
  }
  cottention::StepArguments<float> step() {
    return {.shape = shape(1),
            .q = {x.data()},
            .k = {x.data()},
            .v = {x.data()},
            .o = {stepped.data()},
            .scale_logit = &m,
            .pool = {h.data(), &count},
            .pool_slots = 1};
  }
};

}  // namespace support
