// Cosine attention by the library's three calls on the CPU.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include <cottention/owned_workspace.hpp>

#include "attention.hpp"
#include "qkv.hpp"
#include "team.hpp"

namespace char_lm {

template <class Real>
class CosineAttention final : public Attention<Real> {
 public:
  CosineAttention(Team& team, std::int64_t layers, std::int64_t heads, std::int64_t head_dim)
      : execution_{.threads = team.threads(), .run = run_on_team, .context = &team},
        heads_(heads),
        head_dim_(head_dim),
        h_(static_cast<std::size_t>(layers * heads * head_dim * head_dim)),
        count_(static_cast<std::size_t>(layers)) {}

  void forward(const AttentionShape& shape, std::int64_t, const Real* qkv, const Real* scale_logit,
               Real* o) override {
    const auto arguments = forward_arguments<Real>(shape, qkv, scale_logit, o);
    check(cottention::cpu::forward<Problem>(arguments, workspace_, execution_));
  }

  void backward(const AttentionShape& shape, std::int64_t, const Real* qkv, const Real* scale_logit,
                const Real*, const Real* dout, Real* dqkv, Real* dscale_logit) override {
    const cottention::BackwardArguments<Real> arguments{.shape = extents(shape),
                                                        .q = part(qkv, 0, shape),
                                                        .k = part(qkv, 1, shape),
                                                        .v = part(qkv, 2, shape),
                                                        .dout = {dout},
                                                        .dq = part(dqkv, 0, shape),
                                                        .dk = part(dqkv, 1, shape),
                                                        .dv = part(dqkv, 2, shape),
                                                        .scale_logit = scale_logit,
                                                        .dscale_logit = dscale_logit};
    check(cottention::cpu::backward<Problem>(arguments, workspace_, execution_));
  }

  void start(std::int64_t) override {
    std::fill(h_.begin(), h_.end(), Real{0});
    std::fill(count_.begin(), count_.end(), 0);
  }

  void step(std::int64_t layer, const Real* qkv, const Real* scale_logit, Real* o) override {
    const std::int64_t state = heads_ * head_dim_ * head_dim_;
    const auto arguments = step_arguments<Real>(heads_, head_dim_, qkv, scale_logit, o,
                                                {h_.data() + layer * state, count_.data() + layer});
    // A token of one sequence is a few microseconds of work: less than waking other threads.
    const cottention::cpu::Execution alone{.threads = 1};
    check(cottention::cpu::step<Problem>(arguments, workspace_, alone));
  }

 private:
  using Problem = cottention::Problem<Real, cottention::any_head_dim, cottention::Mask::causal,
                                      cottention::Scale::by_key>;

  /// The library's threads are ours.
  static void run_on_team(void* team, int threads, void (*body)(void*, int), void* data) {
    static_cast<Team*>(team)->run(threads, body, data);
  }

  static void check(const cottention::CallStatus& status) {
    if (!status) throw std::runtime_error(std::string("cosine attention: ") + status.reason);
  }

  cottention::cpu::Execution execution_;
  std::int64_t heads_, head_dim_;
  std::vector<Real> h_;              // (layers, heads, head_dim, head_dim)
  std::vector<std::int64_t> count_;  // (layers)
  cottention::HostWorkspace workspace_;
};

}  // namespace char_lm
