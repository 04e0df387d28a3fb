// --self-test: the gradients of the whole model against finite differences, in double.
#pragma once

#include "config.hpp"

namespace char_lm {

/// Prints one line per kind of parameter; true if all agree.
bool self_test(AttentionKind attention, int threads);

}  // namespace char_lm
