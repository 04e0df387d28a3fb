#pragma once

#include "forms.hpp"

namespace cottention::ptx {

/// A copy of `bytes` bytes has landed.
void land_bytes(Warp& w, const Instruction& i, int lane, std::uint32_t mbarrier, std::int64_t bytes);

}  // namespace cottention::ptx
