// Cosine attention on a GPU, where this program has that compiled in: device_attention.cu does, and
// no_device_attention.cpp stands in for it elsewhere.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "attention.hpp"

namespace char_lm {

/// An attention that computes on a GPU, or none and the reason.
struct DeviceAttention {
  std::unique_ptr<Attention<float>> attention;
  std::string description;  // of the GPU, or the reason
};

/// On the current CUDA device, which has computed something by the time this returns. `largest` bounds the
/// shapes of forward and backward.
DeviceAttention make_device_attention(std::int64_t layers, const AttentionShape& largest);

}  // namespace char_lm
