#include "consumer.hpp"

#include <cstdio>

bool forward_unit(const Inputs& in, float* o) {
  const cottention::ForwardArguments<float> arguments{.shape = shape_of(tokens),
                                                      .q = {in.q.data()},
                                                      .k = {in.k.data()},
                                                      .v = {in.v.data()},
                                                      .o = {o},
                                                      .scale_logit = in.scale_logit.data()};
  const std::size_t bytes = cottention::cpu::workspace_bytes<Attention>(arguments);
  std::vector<Line> memory(bytes / sizeof(Line) + 1);
  const cottention::CallStatus status =
      cottention::cpu::forward<Attention>(arguments, {memory.data(), bytes});
  if (!status) std::printf("forward: %s\n", status.reason);
  return status.ok();
}
