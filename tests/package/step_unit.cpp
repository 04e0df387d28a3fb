#include "consumer.hpp"

#include <cstdio>

bool step_unit(const Inputs& in, float* o) {
  std::vector<float> h(static_cast<std::size_t>(heads * dim * dim), 0.0f);
  std::int64_t count = 0;
  std::vector<Line> memory;
  for (std::int64_t row = 0; row < tokens * heads * dim; row += heads * dim) {
    const cottention::StepArguments<float> arguments{.shape = shape_of(1),
                                                     .q = {in.q.data() + row},
                                                     .k = {in.k.data() + row},
                                                     .v = {in.v.data() + row},
                                                     .o = {o + row},
                                                     .scale_logit = in.scale_logit.data(),
                                                     .pool = {h.data(), &count},
                                                     .pool_slots = 1};
    const std::size_t bytes = cottention::cpu::workspace_bytes<Attention>(arguments);
    memory.resize(bytes / sizeof(Line) + 1);
    const cottention::CallStatus status = cottention::cpu::step<Attention>(arguments, {memory.data(), bytes});
    if (!status) std::printf("step: %s\n", status.reason);
    if (!status) return false;
  }
  return count == tokens;
}
